"""Rounding the weights of one sublayer, by GPTQ against what the rounded model feeds it, or to nearest."""

import copy
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from altq.calibration.states import WINDOWS_PER_BATCH
from altq.calibration.sublayer import QuantizedSublayer, fold_biases, fold_weight, module_key
from altq.checkpoint.folding import rows_before_down
from altq.checkpoint.quantized_model import read_input
from altq.experiment.rounding import RoundingOptions
from altq.quantizers.gptq import HessianFactor, factorize_hessian, gptq_round
from altq.quantizers.integer import Codes, dequantized
from altq.quantizers.weight_codes import WeightCodes, WeightGrid
from altq.runtime.batch_size import BatchSize
from altq.runtime.precision import reduced_products

log = logging.getLogger(__name__)

BATCH_SIZE = BatchSize()
"""That of passes of the rounded model."""


@dataclass(frozen=True)
class Inputs:
    """Inputs of a sublayer in the rounded model.

    hidden: the residual stream, [windows, length, hidden]. weights: of its tokens, [windows, length, 1]. arguments: what
    the block takes besides.
    """

    hidden: Tensor
    weights: Tensor
    arguments: dict[str, Any]


def round_sublayer(
    quantized: QuantizedSublayer, inputs: Inputs, *, outputs: Tensor, rounding: RoundingOptions, name: str
) -> dict[str, WeightCodes | Tensor]:
    """Round the weights of a sublayer: projection -> its codes, int8 [d_out, d_in], and their grid.

    They are folded in float64. GPTQ visits the two sites in order and sums each Hessian over `inputs`. Fills in
    `outputs`, the residual stream after the rounded sublayer; where no Hessian is summed nothing reads it, and it is
    the stream before. At 16 bits the folded weight [d_out, d_in] stands in the place of codes. A Hessian that is zero
    is rounding to nearest, and a warning has the sublayer's `name` and the site; ValueError, with both, for one that
    cannot be factorized.
    """
    return BATCH_SIZE.fit(partial(_rounded, quantized, inputs, outputs, rounding, name), name)


@torch.no_grad()
def _rounded(
    quantized: QuantizedSublayer, inputs: Inputs, outputs: Tensor, rounding: RoundingOptions, name: str
) -> dict[str, WeightCodes | Tensor]:
    """The same; done again it leaves what it leaves done once."""
    quantizer = quantized.quantizers.weights
    exact = copy.deepcopy(quantized.transforms).double()
    for projection, bias in fold_biases(quantized.transforms, quantized.sites, quantized.biases).items():
        quantized.projections[projection].bias = bias
    sums_hessians = rounding.weights == "gptq" and not quantizer.is_identity
    rounded: dict[str, WeightCodes | Tensor] = {}
    before_down = rows_before_down(quantized)
    for site, names in quantized.sites.items():
        factor = None
        if sums_hessians:
            quantized_inputs = site_inputs(quantized, site, inputs)
            hessian = _hessian(quantized_inputs, inputs.weights)
            if not hessian.any():
                log.warning("%s: no signal at %s; its weights are rounded to nearest", name, site)
            try:
                factor = factorize_hessian(hessian, damping=rounding.damping, act_order=rounding.act_order)
            except ValueError as error:
                raise ValueError(f"{name}, site {site}: {error}") from error
            del hessian
        for projection in names:
            weight = quantized.weights[projection].double()
            folded = fold_weight(exact, quantized.sites, name=projection, weight=weight).float().contiguous()
            clip = quantized.weight_clip[module_key(projection)]()
            if quantizer.is_identity:
                rounded[projection] = quantized.projections[projection].weight = folded
                continue
            grid = quantizer.grid(folded, clip, before_down.get(projection))
            codes = _round(folded, grid, factor=factor, block_size=rounding.block_size)
            rounded[projection], quantized.projections[projection].weight = codes, codes.dequantized()
    if sums_hessians:
        _advance(quantized, quantized_inputs, hidden=inputs.hidden, outputs=outputs)
    else:
        outputs.copy_(inputs.hidden)
    return rounded


def _round(weight: Tensor, grid: WeightGrid, *, factor: HessianFactor | None, block_size: int) -> WeightCodes:
    """The codes of a folded weight [d_out, d_in], to nearest where there is no factor of a Hessian."""
    if factor is None:
        return grid.round(weight)
    codes = gptq_round(weight, grid.scale, grid.bits, factor, zero=grid.zero, group=grid.group, block_size=block_size)
    return WeightCodes(codes, grid)


def site_inputs(quantized: QuantizedSublayer, site: str, inputs: Inputs) -> list[Codes | Tensor]:
    """Quantized inputs of a site's projections, by batches of windows; codes take two bytes each.

    The first site needs nothing but the norm, the last one all but its own projection.
    """
    sublayer = quantized.sublayer
    clip, quantizer = quantized.activation_clip[site](), quantized.quantizers.activations
    read = partial(read_input, quantized.transforms[site], clip, quantizer)
    quantized_inputs = []
    for rows in _batches(len(inputs.hidden)):
        x = sublayer.norm(inputs.hidden[rows].to(sublayer.device))
        if site != sublayer.half.selected_site:
            x = sublayer.before_output(x, inputs.arguments)
        x = read(x)
        quantized_inputs.append(Codes(x.codes.to(torch.int16), x.scale) if isinstance(x, Codes) else x)
    return quantized_inputs


def _batches(num_windows: int) -> Iterator[slice]:
    return BATCH_SIZE.slices(num_windows, WINDOWS_PER_BATCH)


def _hessian(inputs: list[Codes | Tensor], weights: Tensor) -> Tensor:
    """sum_t w_t x_t^T x_t over the quantized inputs of a site, [d, d]."""
    total: Tensor | None = None
    for rows_of_batch, x in zip(_batches(len(weights)), inputs, strict=True):
        values = dequantized(x)
        rows = (values * weights[rows_of_batch].to(values.device).sqrt()).flatten(0, 1)
        with reduced_products():
            batch_sum = rows.T @ rows
        total = batch_sum if total is None else total.add_(batch_sum)
        del batch_sum  # not while that of the next batch is computed
    assert total is not None, "a Hessian of no window"
    return total


def _advance(quantized: QuantizedSublayer, inputs: list[Codes | Tensor], *, hidden: Tensor, outputs: Tensor) -> None:
    """Fill in the residual stream after a sublayer, from the inputs of its last projection."""
    *_, last = quantized.projections.values()
    for rows, x in zip(_batches(len(hidden)), inputs, strict=True):
        added = quantized.sublayer.addition(last.project(dequantized(x)))
        outputs[rows] = hidden[rows].to(added.device) + added
