"""Speed of a machine: the few numbers that turn counted work into seconds.

Those of the processor are fitted to the default experiment on one thread of a Xeon with AMX (docs/scaling.md). Those of
the GPU are shares of an H100's data sheet, which are assumptions, and counts of this code on the meta device, which are
none (tests/resources/test_gpu_work.py); nothing was measured on a GPU.
"""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Work:
    """Work of a job: operations, memory and traffic to disk.

    products: floating-point operations in matrix products. elements: elements that chains of elementwise operations
    pass over. solving: operations of GPTQ and decompositions, which run far below the speed of products. seconds: what
    takes its time on any machine (downloads). launches: operations so small that a GPU waits for the host to start each.
    memory, on_gpu: bytes at the peak, without the libraries; on_gpu is taken to be `memory` where it is 0. bytes_read,
    bytes_written: of files. light: the job imports no torch.
    """

    products: float = 0.0
    elements: float = 0.0
    solving: float = 0.0
    seconds: float = 0.0
    launches: float = 0.0
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
            launches=self.launches + other.launches,
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
            launches=count * self.launches,
            bytes_read=count * self.bytes_read,
            bytes_written=count * self.bytes_written,
        )


@dataclass(frozen=True)
class Cost:
    """Cost of a job: seconds by the clock of an idle machine; memory, gpu_memory and disk in bytes.

    On a GPU, what the seconds rest on: operations of products and decompositions, and bytes moved in its memory.
    """

    seconds: float
    memory: float
    disk: float
    gpu_memory: float = 0.0
    operations: float = 0.0
    moved: float = 0.0


@dataclass(frozen=True)
class Speed:
    """Operations a second: products, elements, solving; and seconds of a launch, where the host is waited for."""

    products: float
    elements: float
    solving: float
    launch: float = 0.0


PROCESSOR = Speed(products=2.0e11, elements=2.9e8, solving=2.5e10)
"""One thread."""

BYTES_OF_AN_ELEMENT = 38.0
"""Bytes that the operations of a step, unfused, read and write for each of `Work.elements`, products included."""

H100 = {"products": 495e12, "bandwidth": 3.35e12, "solving": 67e12}
"""Peaks of the data sheet (SXM): TF32 on tensor cores without sparsity, bytes a second, float64 on tensor cores."""

SHARES = {"products": 0.6, "bandwidth": 0.8, "solving": 0.15}
"""Shares of the peaks that are assumed to be reached."""

GPU = Speed(
    products=SHARES["products"] * H100["products"],
    elements=SHARES["bandwidth"] * H100["bandwidth"] / BYTES_OF_AN_ELEMENT,
    solving=SHARES["solving"] * H100["solving"],
    launch=8e-6,
)

LIBRARIES = {"seconds": 6.0, "memory": 0.48e9, "gpu_memory": 1.0e9}
"""Cost of importing torch and transformers; on a GPU, of its context."""

LIGHT = {"seconds": 1.0, "memory": 0.2e9}
"""Cost of imports without torch: pandas and matplotlib at most."""

DISK = 1.0e9
"""Bytes a second, read or written."""

SCALING = 0.85
"""t threads are as fast as t ** SCALING."""


def cost_of(work: Work, threads: int, *, gpu: bool) -> Cost:
    """Cost of a job on so many threads, or on a GPU. Nothing overlaps: arithmetic, memory, launches and disk add up."""
    start = LIGHT if work.light else LIBRARIES
    speed, parallelism = (GPU, 1.0) if gpu else (PROCESSOR, threads**SCALING)
    busy = work.products / speed.products + work.elements / speed.elements + work.solving / speed.solving
    busy += work.launches * speed.launch
    return Cost(
        seconds=start["seconds"] + work.seconds + busy / parallelism + (work.bytes_read + work.bytes_written) / DISK,
        memory=start["memory"] + work.memory,
        disk=work.bytes_written,
        gpu_memory=LIBRARIES["gpu_memory"] + (work.on_gpu or work.memory) if gpu else 0.0,
        operations=work.products + work.solving if gpu else 0.0,
        moved=BYTES_OF_AN_ELEMENT * work.elements if gpu else 0.0,
    )


def gpu_assumptions() -> str:
    """Say in a sentence what the seconds of a GPU rest on, for those who read a plan."""
    return (
        f"A GPU is taken for an H100 that reaches {SHARES['products']:.0%} of its {H100['products'] / 1e12:.0f} TFLOP/s in "
        f"products (TF32), {SHARES['bandwidth']:.0%} of its {H100['bandwidth'] / 1e12:.2f} TB/s and "
        f"{SHARES['solving']:.0%} of its {H100['solving'] / 1e12:.0f} TFLOP/s in decompositions (float64), with nothing "
        f"fused and nothing overlapping; disks do {DISK / 1e9:.0f} GB/s. Operations and bytes are counted, the shares are "
        "assumed: no time was measured on a GPU."
    )
