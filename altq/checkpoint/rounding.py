"""Rounding the weights of one sublayer, by GPTQ against what the rounded model feeds it, or to nearest."""

import copy
import logging
from functools import partial
from typing import Any

import torch
from torch import Tensor

from altq.calibration.states import WINDOWS_PER_BATCH, batches
from altq.calibration.sublayer import QuantizedSublayer, fold_biases, fold_weight, module_key
from altq.checkpoint.quantized_model import read_input
from altq.experiment.rounding import RoundingOptions
from altq.quantizers.gptq import HessianFactor, factorize_hessian, gptq_round
from altq.quantizers.integer import Codes, dequantized
from altq.quantizers.quantizer import Quantizer
from altq.runtime.precision import reduced_products

log = logging.getLogger(__name__)


@torch.no_grad()
def round_sublayer(
    quantized: QuantizedSublayer,
    hidden: Tensor,
    outputs: Tensor,
    weights: Tensor,
    arguments: dict[str, Any],
    rounding: RoundingOptions,
    name_of_sublayer: str,
) -> dict[str, Codes | Tensor]:
    """Round the weights of a sublayer: projection -> its codes, int8 [d_out, d_in], and their scales [d_out, 1].

    They are folded in float64. GPTQ visits the two sites in order and sums each Hessian over the inputs that the
    rounded model sees: hidden [windows, length, hidden], its tokens weighted by [windows, length, 1]. Fills in
    `outputs`, the same after the rounded sublayer; where no Hessian is summed nothing reads it, and it is `hidden` as
    it was. At 16 bits the folded weight [d_out, d_in] stands in the place of codes. A Hessian that is zero is rounding to
    nearest, and a warning names sublayer and site.
    """
    quantizer = quantized.quantizers.weights
    exact = copy.deepcopy(quantized.transforms).double()
    for name, bias in fold_biases(quantized.transforms, quantized.sites, quantized.biases).items():
        quantized.projections[name].bias = bias
    sums_hessians = rounding.weights == "gptq" and not quantizer.is_identity
    rounded: dict[str, Codes | Tensor] = {}
    for site, names in quantized.sites.items():
        factor = None
        if sums_hessians:
            inputs = site_inputs(quantized, site, hidden, arguments)
            hessian = _hessian(inputs, weights)
            if not hessian.any():
                log.warning("%s: no signal at %s; its weights are rounded to nearest", name_of_sublayer, site)
            try:
                factor = factorize_hessian(hessian, damping=rounding.damping, act_order=rounding.act_order)
            except ValueError as error:
                raise ValueError(f"{name_of_sublayer}, site {site}: {error}") from error
            del hessian
        for name in names:
            weight = fold_weight(exact, quantized.sites, name, quantized.weights[name].double()).float().contiguous()
            clip = quantized.weight_clip[module_key(name)]()
            rounded[name] = _round(weight, quantizer, clip, factor, block_size=rounding.block_size)
            quantized.projections[name].weight = dequantized(rounded[name])
    if sums_hessians:
        _advance(quantized, inputs, hidden, outputs)
    else:
        outputs.copy_(hidden)
    return rounded


def _round(
    weight: Tensor, quantizer: Quantizer, clip: Tensor, factor: HessianFactor | None, *, block_size: int
) -> Codes | Tensor:
    """The int8 codes of a folded weight [d_out, d_in], to nearest where there is no factor of a Hessian."""
    if factor is not None:
        # GPTQ wants positive scales: the sign moves to the weight, and the codes are the same.
        scale = quantizer.scale(weight, clip)
        codes = gptq_round(weight * scale.sign(), scale.abs(), quantizer.bits, factor, block_size=block_size)
        return Codes(codes, scale)
    nearest = quantizer.codes(weight, clip)
    return Codes(nearest.codes.to(torch.int8), nearest.scale) if isinstance(nearest, Codes) else nearest


def site_inputs(
    quantized: QuantizedSublayer, site: str, hidden: Tensor, arguments: dict[str, Any]
) -> list[Codes | Tensor]:
    """What the projections of a site read, by batches of windows; its codes take two bytes each.

    The first site needs nothing but the norm, the last one all but its own projection.
    """
    sublayer = quantized.sublayer
    clip, quantizer = quantized.activation_clip[site](), quantized.quantizers.activations
    read = partial(read_input, quantized.transforms[site], clip, quantizer)
    inputs = []
    for rows in batches(len(hidden)):
        x = sublayer.norm(hidden[rows])
        if site != sublayer.half.selected_site:
            x = sublayer.before_output(x, arguments)
        x = read(x)
        inputs.append(Codes(x.codes.to(torch.int16), x.scale) if isinstance(x, Codes) else x)
    return inputs


def _hessian(inputs: list[Codes | Tensor], weights: Tensor) -> Tensor:
    """sum_t w_t x_t^T x_t over the quantized inputs of a site, [d, d]."""
    total = None
    for x, token_weight in zip(inputs, weights.split(WINDOWS_PER_BATCH), strict=True):
        rows = (dequantized(x) * token_weight.sqrt()).flatten(0, 1)
        with reduced_products():
            of_batch = rows.T @ rows
        total = of_batch if total is None else total.add_(of_batch)
        del of_batch  # not while that of the next batch is computed
    return total


def _advance(quantized: QuantizedSublayer, inputs: list[Codes | Tensor], hidden: Tensor, outputs: Tensor) -> None:
    """Fill in the residual stream after a sublayer, from the inputs of its last projection."""
    *_, last = quantized.projections.values()
    for rows, x in zip(batches(len(hidden)), inputs, strict=True):
        outputs[rows] = hidden[rows] + quantized.sublayer.output_norm(last.project(dequantized(x)))
