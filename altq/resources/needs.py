"""Resources that the workflow's rules request for a job: threads, memory, minutes, disk and GPUs, with headroom."""

import inspect
import math
from collections.abc import Callable, Mapping
from functools import cache, cached_property
from pathlib import Path

from altq.experiment.experiment import Experiment
from altq.resources.machine import Cost, cost_of
from altq.resources.shapes import GUESSED, sizes_of_models
from altq.resources.stages import Stages
from altq.runtime.files import free_space

MEMORY_HEADROOM = 1.3
MEMORY_GROWTH = 1.6
"""Every further attempt asks for so much more memory."""

TIME_HEADROOM = 3.0
LEAST_MINUTES = 15
"""A job that waits for a slow file system is not to be stopped."""

THREADS_BESIDE_A_GPU = 4
"""Threads of a job on a GPU: it reads, launches and writes."""

THREADS_OF = ((2e7, 1), (1.5e8, 8), (math.inf, 16))
"""Threads of a numeric job, by the weights of a block: on a small one, threads wait for each other."""


class Needs:
    """Needs of an experiment's jobs; `folder` is the workflow's working directory, `gpus` the number of GPUs.

    Without GPUs (0) no job asks for one; with some, every numeric stage but `statistics` does. free_disk: bytes; where it is
    None, those of the disk of `folder`.
    """

    def __init__(
        self,
        experiment: Experiment,
        folder: str | Path,
        gpus: int,
        *,
        free_disk: float | None = None,
    ) -> None:
        self.sizes = sizes_of_models(experiment.models, folder)
        free = free_space(folder) if free_disk is None else free_disk
        self.stages, self.gpus = Stages(experiment, self.sizes, free), gpus

    @property
    def guessed(self) -> list[str]:
        """Models whose shape is not known yet."""
        return [name for name, sizes in self.sizes.items() if sizes.origin == GUESSED]

    @property
    def beyond_context(self) -> dict[str, tuple[int, int]]:
        """Models with windows longer than their context: {model: (tokens of a window, tokens of the context)}."""
        experiment = self.stages.experiment
        length = max(experiment.calibration.window_length, experiment.evaluation.window_length)
        contexts = {name: sizes.shape.max_position_embeddings for name, sizes in self.sizes.items()}
        return {name: (length, context) for name, context in contexts.items() if context and length > context}

    @property
    def warnings(self) -> list[str]:
        """Warnings for the user before any job starts: shapes that are guessed, windows that are too long."""
        said = [
            f"warning: windows of {length} tokens are longer than the {context} that {name} was made for "
            "(max_position_embeddings); lower window_length of `calibration` and `evaluation`"
            for name, (length, context) in self.beyond_context.items()
        ]
        if self.guessed:
            said.insert(
                0,
                f"the shape of {', '.join(self.guessed)} is guessed from num_blocks until it is fetched, and with it the "
                "memory and time of jobs; give `shape:` in the configuration to have them right",
            )
        return said

    def on_gpu(self, rule: str) -> bool:
        """Whether a job of this rule gets a GPU."""
        return self.gpus > 0 and rule in ON_A_DEVICE

    def threads(self, rule: str, wildcards: Mapping[str, str]) -> int:
        """Threads that a job of this rule makes use of."""
        if rule not in NUMERIC:
            return 1
        if self.on_gpu(rule):
            return THREADS_BESIDE_A_GPU
        weights = self.sizes[wildcards["model"]].block_weights
        return next(threads for most, threads in THREADS_OF if weights < most)

    def cost(self, rule: str, wildcards: Mapping[str, str], threads: int) -> Cost:
        """Expected cost of a job, without headroom."""
        return cost_of(self.stages.work(rule, wildcards), threads, gpu=self.on_gpu(rule))

    @cached_property
    def resources(self) -> dict[str, Callable[..., int | str | None]]:
        """The `resources:` of every rule, as functions that Snakemake calls for each job with the rule's name."""

        @cache
        def cost(rule: str, wildcards: tuple[tuple[str, str], ...], threads: int) -> Cost:
            return self.cost(rule, dict(wildcards), threads)

        def of_job(rulename: str, wildcards: Mapping[str, str], threads: int) -> Cost:
            return cost(rulename, tuple(sorted(dict(wildcards).items())), threads)

        def mem_mb(wildcards: Mapping[str, str], threads: int, attempt: int, rulename: str) -> int:
            memory = MEMORY_HEADROOM * of_job(rulename, wildcards, threads).memory * MEMORY_GROWTH ** (attempt - 1)
            return 100 * math.ceil(memory / 1e8)

        def runtime(wildcards: Mapping[str, str], threads: int, attempt: int, rulename: str) -> int:
            seconds = of_job(rulename, wildcards, threads).seconds
            return math.ceil(LEAST_MINUTES + attempt * TIME_HEADROOM * seconds / 60)

        def disk_mb(wildcards: Mapping[str, str], threads: int, rulename: str) -> int:
            return 100 + math.ceil(MEMORY_HEADROOM * of_job(rulename, wildcards, threads).disk / 1e6)

        def gpu(wildcards: Mapping[str, str], rulename: str) -> int | None:
            return 1 if self.on_gpu(rulename) else None

        def device(wildcards: Mapping[str, str], rulename: str) -> str | None:
            # A resource and no parameter: where a job runs is no reason to run it again.
            return ("cuda" if self.on_gpu(rulename) else "cpu") if rulename in ON_A_DEVICE else None

        functions: dict[str, Callable[..., int | str | None]] = {
            "mem_mb": mem_mb,
            "runtime": runtime,
            "disk_mb": disk_mb,
            "device": device,
        }
        if self.gpus:
            functions["gpu"] = gpu
        for function in functions.values():
            _keep_signature(function)
        return functions

    @cached_property
    def threads_of_job(self) -> Callable[..., int]:
        """The `threads:` of every rule, as a function that Snakemake calls for each job with the rule's name."""

        def threads(wildcards: Mapping[str, str], rulename: str) -> int:
            return self.threads(rulename, dict(wildcards))

        _keep_signature(threads)
        return threads


def _keep_signature(function: Callable[..., int | str | None]) -> None:
    """Store the signature of a function, which Snakemake otherwise computes several times for each job."""
    function.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]  # where inspect looks first


NUMERIC = frozenset(
    {
        "statistics", "states", "calibrate", "calibrate_shard", "calibrate_end_to_end", "search", "reconstruction",
        "predict", "assemble", "refine", "perplexity", "perplexity_full", "zero_shot", "zero_shot_full",
    }
)  # fmt: skip
"""Rules whose jobs spend their time in torch."""

ON_A_DEVICE = NUMERIC - {"statistics"}
"""Rules whose commands take `--device`, and get a GPU where there is one."""
