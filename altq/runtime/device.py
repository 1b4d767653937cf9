"""How each kind of device computes: what differs between a CPU and a GPU besides where their tensors lie.

The skeleton of a model owns the device, and whatever computes follows its tensors. What depends on the kind of device
stands here alone. Draws are the CPU's on any device: one seed gives the same draws everywhere.
"""

from dataclasses import dataclass

import torch

from altq.runtime.memory import available_memory

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Traits:
    """Choices that a kind of device makes its own way.

    tokens_of_logits: logits are made for so many tokens at a time, never for a window, let alone for all.
    resident_weights: the type of weights that are all in memory at once, as end-to-end calibration has them.
    reduced_linears: whether the full-precision model's linear layers, too, multiply in reduced precision
    (altq/runtime/precision.py). attention: the type in which attention computes from float32; None to leave it.
    reads_ahead: whether the next block is read while one is at work, which on a CPU would take its memory and cores.
    """

    tokens_of_logits: int
    resident_weights: torch.dtype
    reduced_linears: bool
    attention: torch.dtype | None
    reads_ahead: bool


# Logits of 128 tokens and 49,152 words are 25 MB; above 32 MB, malloc takes fresh pages from the system for every tensor,
# and gives them back.
ON_CPU = Traits(
    tokens_of_logits=128,
    resident_weights=torch.float32,
    reduced_linears=False,
    attention=None,
    reads_ahead=False,
)

# Of 4,096 tokens and 128,256 words they are 2.1 GB: small beside a GPU's memory, and few launches.
# TF32 keeps 11 bits of each operand, and float32 attention with grouped heads has no kernel that does not hold all scores.
ON_GPU = Traits(
    tokens_of_logits=4096,
    resident_weights=torch.bfloat16,
    reduced_linears=True,
    attention=torch.bfloat16,
    reads_ahead=True,
)


def free_memory(device: torch.device) -> int:
    """Bytes that torch may still take: of a GPU, of those that it was bounded to, or of main memory where there is none."""
    if device.type == "cpu" or not torch.cuda.is_available():
        return available_memory()
    free, total = torch.cuda.mem_get_info(device)
    bound = int(torch.cuda.get_per_process_memory_fraction(device) * total)
    return min(free, bound - torch.cuda.memory_allocated(device))


def is_pinned_for(device: torch.device) -> bool:
    """Whether main memory is pinned for a device: a GPU copies from such memory at full speed, and nobody waits."""
    return device.type == "cuda" and torch.cuda.is_available()


def traits_of(device: torch.device) -> Traits:
    """The traits of a device."""
    return ON_GPU if device.type == "cuda" else ON_CPU
