"""The decoder layers that are measured: sizes, methods, and random weights and transforms."""

from collections.abc import Sequence

import torch
from torch import Tensor

from kernels.reference.layer import LayerSizes, LayerWeights, Transforms

LLAMA_2_7B = LayerSizes(hidden=4096, heads=32, kv_heads=32, head_dim=128, intermediate=11008)
LLAMA_3_8B = LayerSizes(hidden=4096, heads=32, kv_heads=8, head_dim=128, intermediate=14336)
SMOLLM2_135M = LayerSizes(hidden=576, heads=9, kv_heads=3, head_dim=64, intermediate=1536)

ONLINE_SITES = {
    "INT4": (),
    "QuaRot": ("o", "down", "key"),
    "FlatQuant": ("qkv", "o", "gate_up", "down", "key"),
    "adaptive": ("qkv", "o", "gate_up", "down", "key"),
}
"""Method -> the sites whose transform stays online. A rotation and an affine map of the same sizes are the same work."""

FACTORS = {4096: (64, 64), 11008: (86, 128), 14336: (112, 128), 192: (12, 16), 256: (16, 16)}
"""Width -> the sides of its two factors on a GPU."""


def random_weights(
    sizes: LayerSizes, *, device: torch.device | str = "cpu", generator: torch.Generator | None = None
) -> LayerWeights:
    """Normal weights of variance 1 / channels, float16, and norms of ones; the generator is of the device."""

    def normal(rows: int, channels: int) -> Tensor:
        return torch.randn(rows, channels, device=device, generator=generator).div_(channels**0.5).half()

    norm = torch.ones(sizes.hidden, dtype=torch.float16, device=device)
    attention = sizes.heads * sizes.head_dim
    return LayerWeights(
        norm, normal(sum(sizes.qkv_rows), sizes.hidden), normal(sizes.hidden, attention),
        norm, normal(2 * sizes.intermediate, sizes.hidden), normal(sizes.hidden, sizes.intermediate),
    )  # fmt: skip


def random_transforms(sites: Sequence[str], sizes: LayerSizes, device: torch.device | str) -> Transforms:
    """Random orthogonal transforms at some sites."""
    generator = torch.Generator().manual_seed(1)

    def factor(*shape: int) -> Tensor:
        return torch.linalg.qr(torch.randn(*shape, shape[-1], generator=generator))[0].contiguous().to(device)

    transforms = {
        "qkv": lambda: tuple(map(factor, FACTORS[sizes.hidden])),
        "o": lambda: factor(sizes.heads),
        "gate_up": lambda: tuple(map(factor, FACTORS[sizes.hidden])),
        "down": lambda: tuple(map(factor, FACTORS[sizes.intermediate])),
        "key": lambda: factor(sizes.kv_heads, sizes.head_dim),
    }
    return Transforms(**{site: transforms[site]() for site in sites})
