"""The processor cores that this process may use, which can be fewer than the machine has, and threads within them."""

import os
import warnings

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
"""Environment variables that the numeric libraries read once, when they are imported."""


def usable_cores() -> int:
    """Cores that the scheduler gives to this process: those of its affinity, where the system has such."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def bounded_threads(threads: int, option: str = "--threads") -> int:
    """Limit `threads` to the usable cores, with a warning: a pool of 10^9 threads takes a machine down."""
    cores = usable_cores()
    if threads > cores:
        warnings.warn(
            f"{option} {threads}: this process may use {cores} cores, and takes {cores} threads", stacklevel=2
        )
    return min(threads, cores)


def limit_threads(threads: int | None) -> int | None:
    """Let the numeric libraries use `threads`, or with None what the environment says, within the usable cores.

    To be called before any of them is imported. Returns the number of threads in use, or None.
    """
    if threads is None:
        for name in THREAD_VARIABLES:
            # Other values, such as a list for nested levels, mean what the library says.
            if (value := os.environ.get(name, "")).isdecimal():
                os.environ[name] = str(bounded_threads(int(value), name))
        return None
    threads = bounded_threads(threads)
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if threads > 1 else "false"
    return threads
