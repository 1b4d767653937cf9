"""The projections of a checkpoint on the GPU kernels, and in plain torch where a site is beyond these."""

import logging

import torch

from altq.checkpoint.packed_site import beyond_factors, beyond_rows, factors_of, layer_products, pack_site
from altq.checkpoint.quantized_model import Products, Site, integer_products
from kernels.triton.quantized_linear import GrowingWorkspace, QuantizedLinear, obstacle

log = logging.getLogger(__name__)


class TritonProducts:
    """Makes the products of each site of a model on a device; its layers run one after another on one stream.

    A site that the kernels do not know is computed as `integer_products` does, with codes held as floats, eight times
    their memory; the log says which, and why, once for each reason.
    """

    def __init__(self, device: torch.device) -> None:
        self._workspace = GrowingWorkspace(device)
        self._logged: set[str] = set()

    def __call__(self, site: Site) -> Products:
        """The products of a site: [..., d_in] -> float32 [..., d_out] of each projection."""
        weights, activations = site.quantizers.weights, site.quantizers.activations
        problem = beyond_rows(weights) or beyond_factors(type(site.transform).__name__)
        left, right = (None, None) if problem else factors_of(site.transform)
        problem = problem or obstacle(
            site.transform.size,
            left,
            right,
            weight_bits=weights.bits,
            bits=activations.bits,
            asymmetric=activations.asymmetric,
        )
        if problem:
            if problem not in self._logged:
                self._logged.add(problem)
                names = ", ".join(site.names)
                log.warning(
                    "%s: in plain torch, with codes held as floats; the GPU kernels do not know %s", names, problem
                )
            return integer_products(site)
        packed = pack_site(site)
        layer = QuantizedLinear(
            packed.codes,
            packed.scale,
            weight_bits=weights.bits,
            bits=activations.bits,
            clip=site.clip,
            signed=activations.signed,
            left=left,
            right=right,
            bias=packed.bias,
            workspace=self._workspace,
        )
        return layer_products(layer, packed)
