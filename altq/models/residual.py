"""A rotation R of the residual stream, folded into all that reads or writes it (QuaRot, arXiv 2404.00456, section 3).

With orthogonal R, RMSNorm(h R) = RMSNorm(h) R once the norm's gain is folded into the weights behind it. So what reads
the stream becomes W diag(gain) R, what writes it R^T W (its bias b R), the embedding E R, the head H diag(gain) R.
"""

import torch
from torch import Tensor, nn

from altq.models.family import Family, Half
from altq.models.typed_modules import linear_layers
from altq.runtime.precision import reduced_linear


class ResidualRotation:
    """An orthogonal matrix [hidden, hidden] that rotates the stream h to h R. Everything is folded in float64.

    ValueError as `require_rotatable`.
    """

    def __init__(self, matrix: Tensor, family: Family) -> None:
        require_rotatable(family)
        self.matrix = matrix
        self.family = family

    @torch.no_grad()
    def fold_block(self, block: nn.Module) -> None:
        """Fold into a block's projections, in place; its norms have gain one afterwards."""
        rotation = self.matrix.double()
        for half in (self.family.attention, self.family.ffn):
            fold_gain(block, half, self.family.norm_offset)
            linears = linear_layers(block, half.readers + half.writers)
            weights: dict[str, Tensor] = {name: linear.weight.double() for name, linear in linears.items()}
            biases: dict[str, Tensor | None] = {
                name: None if linear.bias is None else linear.bias.double() for name, linear in linears.items()
            }
            weights, biases = rotate_projections(half, weights, biases=biases, rotation=rotation)
            for name, linear in linears.items():
                linear.weight.copy_(weights[name])
                if (bias := biases[name]) is not None:
                    linear.bias.copy_(bias)

    @torch.no_grad()
    def fold_outer(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The tensors outside the blocks by their name; a head that was tied to the embedding is one of its own."""
        family = self.family
        embedding, head, norm = (f"{name}.weight" for name in (family.embedding, family.head, family.last_norm))
        rotation, gain = self.matrix.double(), family.norm_offset + tensors[norm].double()
        folded = {
            embedding: tensors[embedding].double() @ rotation,
            head: tensors.get(head, tensors[embedding]).double() * gain @ rotation,
            norm: torch.ones_like(gain) - family.norm_offset,
        }
        return tensors | {name: tensor.to(tensors[embedding].dtype) for name, tensor in folded.items()}


def require_rotatable(family: Family) -> None:
    """ValueError for a family that norms what a sublayer adds to the stream: that norm's gain keeps R from folding."""
    for half in (family.attention, family.ffn):
        if half.output_norm:
            raise ValueError(
                f"a rotation of the residual stream cannot fold: {half.output_norm} of this family scales what "
                f"{half.module} adds to the stream; choose a method that does not rotate it"
            )


@torch.no_grad()
def fold_gain(block: nn.Module, half: Half, norm_offset: float) -> None:
    """Fold the gain of a half's norm into the projections that read it, in place."""
    assert half.norm is not None, "require_rotatable refuses a half without a norm"
    norm_weight = block.get_parameter(f"{half.norm}.weight")
    gain = norm_offset + norm_weight.double()
    for linear in linear_layers(block, half.readers).values():
        linear.weight.copy_(linear.weight.double() * gain)
    norm_weight.fill_(1 - norm_offset)


def rotate_projections(
    half: Half, weights: dict[str, Tensor], biases: dict[str, Tensor | None], rotation: Tensor
) -> tuple[dict[str, Tensor], dict[str, Tensor | None]]:
    """The weights [d_out, d_in] and biases [d_out] of a half whose norm has gain one, in the rotated stream.

    In float64 it is exact; in float32 the products are reduced (altq/runtime/precision.py), as all in calibration are.
    """
    reader_weights = {name: reduced_linear(weights[name], rotation.T) for name in half.readers}
    writer_weights = {name: reduced_linear(weights[name].T, rotation.T).T for name in half.writers}
    writer_biases = {name: bias @ rotation for name in half.writers if (bias := biases[name]) is not None}
    return weights | reader_weights | writer_weights, biases | writer_biases
