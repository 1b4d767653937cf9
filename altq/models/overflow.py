"""Detection of norm inputs too large for float32, which a norm would hide behind finite numbers.

A root-mean-square norm divides by the square root of a sum of squares. Where the sum overflows, it divides by infinity,
and what follows computes with zeros as if nothing had happened. All else that overflows in a block ends in infinity or
NaN, which is seen where states and losses are.
"""

import math
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from altq.runtime.looks import look


def refuse_overflow_in_norms(model: nn.Module, folder: str | Path) -> None:
    """Let every norm of a model raise ValueError for a finite input whose squares, in float32, are not.

    Copies of the norms do so, too. folder: of the model, for the message.
    """
    for name, module in model.named_modules():
        if type(module).__name__.endswith("Norm"):
            module.register_forward_pre_hook(_Overflow(f"{folder}: the input of {name}"))


class _Overflow:
    def __init__(self, place: str) -> None:
        self._place = place

    def __call__(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].detach()
        # Of all tokens together, in one pass: it is finite almost always.
        look(torch.linalg.vector_norm(x.float()), partial(self._refuse, x))

    def _refuse(self, x: Tensor, norm: list[float]) -> None:
        if math.isfinite(norm[0]):
            return
        overflows = x.isfinite().all(-1) & ~x.float().square().mean(-1).isfinite()
        if overflows.any():
            raise ValueError(
                f"{self._place} reaches {x[overflows].abs().max():.1e}, and its square overflows float32; no number is "
                "computed from it. The activations of the model are too large, or its weights are damaged"
            )
