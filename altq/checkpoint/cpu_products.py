"""The projections and the cache of a checkpoint on the CPU kernels."""

from torch import Tensor

from altq.checkpoint.packed_site import factors_of, layer_products, pack_site
from altq.checkpoint.quantized_model import CacheReader, Products, Site
from altq.quantizers.quantizer import Quantizer, Quantizers
from altq.transforms.heads import HeadTransform
from kernels.cpu import Activations, CacheQuantizer, QuantizedLinear


def cpu_products(site: Site, *, variant: str | None) -> Products:
    """One layer for all projections of a site. ValueError for widths that the kernels do not know."""
    packed, read = pack_site(site), site.quantizers.activations
    left, right = factors_of(site.transform)
    layer = QuantizedLinear(
        packed.codes,
        packed.scale,
        weight_bits=site.quantizers.weights.bits,
        activations=Activations(read.bits, site.clip, signed=read.signed, asymmetric=read.asymmetric),
        left=left,
        right=right,
        bias=packed.bias,
        variant=variant,
    )
    return layer_products(layer, packed)


class PackedCacheReader(CacheReader):
    """The joint of queries, keys and values with the kernels' quantizers of keys and values."""

    def __init__(
        self, transform: HeadTransform, clips: dict[str, Tensor], quantizers: Quantizers, *, variant: str | None
    ) -> None:
        super().__init__(transform, clips, quantizers)
        ranges = {site: clip.expand(len(self.factors), 1, 2).squeeze(1) for site, clip in clips.items()}
        self._keys = CacheQuantizer(_width(quantizers.keys), ranges["key"], self.factors, variant=variant)
        self._values = CacheQuantizer(_width(quantizers.values), ranges["value"], variant=variant)

    def keys_and_values(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        return self._keys(key), self._values(value)


def _width(quantizer: Quantizer) -> int | None:
    return None if quantizer.is_identity else quantizer.bits
