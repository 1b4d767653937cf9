"""Projections that an architecture keeps as the rows of one linear layer, taken apart so that each has a place of its own.

The rows are those of the projections one behind the other, so that nothing is computed: a part is a slice, and the
outputs of the parts, concatenated, are the output of the whole.
"""

import torch
from torch import Tensor, nn

from altq.experiment.shape import Sizes
from altq.models.config_file import ConfigFile
from altq.models.family import Family
from altq.models.typed_modules import linear_layers


class FusedProjection(nn.Module):
    """Linear layers whose outputs are concatenated: [..., d_in] -> [..., sum of their d_out]."""

    def __init__(self, linear: nn.Linear, rows: dict[str, int]) -> None:
        super().__init__()
        for name, d_out in rows.items():
            part = nn.Linear(
                linear.in_features, d_out, bias=linear.bias is not None, device="meta", dtype=linear.weight.dtype
            )
            self.add_module(name, part)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([part(x) for part in self.children()], -1)


def fused_rows(family: Family, config: ConfigFile) -> dict[str, dict[str, int]]:
    """The number of rows of each part of each fused projection of a block; parts are named below the fused one."""
    sizes = Sizes(config.shape, config.num_hidden_layers, config.model_type)
    widths = {
        "attention": (sizes.query, sizes.key_value // 2, sizes.key_value // 2),
        "ffn": (sizes.intermediate, sizes.intermediate),
    }
    return {
        half.fused: {
            name.removeprefix(f"{half.fused}."): width
            for name, width in zip(half.readers, widths[half_name], strict=True)
        }
        for half_name, half in (("attention", family.attention), ("ffn", family.ffn))
        if half.fused
    }


def split_fused_projections(model: nn.Module, family: Family, config: ConfigFile) -> None:
    """Put a FusedProjection, without weights, in place of each fused linear layer of a model."""
    rows = fused_rows(family, config)
    for block in model.get_submodule(family.blocks).children():
        for name, linear in linear_layers(block, rows).items():
            block.set_submodule(name, FusedProjection(linear, rows[name]))
