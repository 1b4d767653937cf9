"""Speed of a machine: the few numbers that turn counted work into seconds.

Those of the processor are fitted to the default experiment on one thread of a Xeon with AMX (docs/scaling.md). Those of
the GPU are assumptions about an H100, not measurements of this code.
"""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Work:
    """Work of a job: operations, memory and traffic to disk.

    products: floating-point operations in matrix products. elements: elements that chains of elementwise operations
    pass over. solving: operations of GPTQ and decompositions, which run far below the speed of products. seconds: what
    takes its time on any machine (downloads). memory, on_gpu: bytes at the peak, without the libraries; on_gpu is taken
    to be `memory` where it is 0. bytes_read, bytes_written: of files. light: the job imports no torch.
    """

    products: float = 0.0
    elements: float = 0.0
    solving: float = 0.0
    seconds: float = 0.0
    memory: float = 0.0
    on_gpu: float = 0.0
    bytes_read: float = 0.0
    bytes_written: float = 0.0
    light: bool = False

    def __add__(self, other: "Work") -> "Work":
        """Work of two jobs in sequence: operations add up, and the higher peak of memory counts."""
        return Work(
            products=self.products + other.products,
            elements=self.elements + other.elements,
            solving=self.solving + other.solving,
            seconds=self.seconds + other.seconds,
            memory=max(self.memory, other.memory),
            on_gpu=max(self.on_gpu, other.on_gpu),
            bytes_read=self.bytes_read + other.bytes_read,
            bytes_written=self.bytes_written + other.bytes_written,
            light=self.light and other.light,
        )

    def times(self, count: float) -> "Work":
        """Work of `count` repetitions; memory stays."""
        return replace(
            self,
            products=count * self.products,
            elements=count * self.elements,
            solving=count * self.solving,
            seconds=count * self.seconds,
            bytes_read=count * self.bytes_read,
            bytes_written=count * self.bytes_written,
        )


@dataclass(frozen=True)
class Cost:
    """Cost of a job: seconds by the clock of an idle machine; memory, gpu_memory and disk in bytes."""

    seconds: float
    memory: float
    disk: float
    gpu_memory: float = 0.0


@dataclass(frozen=True)
class Speed:
    """Operations a second: products, elements, solving."""

    products: float
    elements: float
    solving: float


PROCESSOR = Speed(products=2.0e11, elements=2.9e8, solving=2.5e10)
"""One thread."""

GPU = Speed(products=2.0e14, elements=8.0e10, solving=1.0e13)

LIBRARIES = {"seconds": 6.0, "memory": 0.48e9, "gpu_memory": 1.0e9}
"""Cost of importing torch and transformers; on a GPU, of its context."""

LIGHT = {"seconds": 1.0, "memory": 0.2e9}
"""Cost of imports without torch: pandas and matplotlib at most."""

DISK = 1.0e9
"""Bytes a second, read or written."""

SCALING = 0.85
"""t threads are as fast as t ** SCALING."""


def cost_of(work: Work, threads: int, *, gpu: bool) -> Cost:
    """Cost of a job on so many threads, or on a GPU."""
    start = LIGHT if work.light else LIBRARIES
    speed, parallelism = (GPU, 1.0) if gpu else (PROCESSOR, threads**SCALING)
    busy = work.products / speed.products + work.elements / speed.elements + work.solving / speed.solving
    return Cost(
        seconds=start["seconds"] + work.seconds + busy / parallelism + (work.bytes_read + work.bytes_written) / DISK,
        memory=start["memory"] + work.memory,
        disk=work.bytes_written,
        gpu_memory=LIBRARIES["gpu_memory"] + (work.on_gpu or work.memory) if gpu else 0.0,
    )
