"""A sublayer with transformed and quantized weights, inputs and cache: what calibration fits."""

import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from altq.models.joints import SharedInput, attach_cache_joint
from altq.models.sublayer import Sublayer
from altq.models.typed_modules import TypedModuleDict
from altq.quantizers.clipping import Clip
from altq.quantizers.quantizer import Quantizers
from altq.runtime.precision import reduced_linear
from altq.transforms.heads import HeadAffine, HeadTransform
from altq.transforms.identity import Identity
from altq.transforms.transform import Transform


class QuantizedSublayer(nn.Module):
    """Transforms and clipping factors of every site of one sublayer, over its full-precision weights.

    Whoever runs the sublayer's block keeps this object, too: the block does not. Transforms and factors move to the
    weights' device.

    transforms: site -> transform. Attention: `qkv`, `o`, `key`, `value`; ffn: `gate_up`, `down`.
    """

    def __init__(
        self,
        sublayer: Sublayer,
        transforms: Mapping[str, Transform],
        quantizers: Quantizers,
    ) -> None:
        super().__init__()
        self.quantizers = quantizers
        self.transforms = TypedModuleDict(transforms)
        half = sublayer.half
        self.sites = half.input_sites
        linears = sublayer.linears()
        self.weights: dict[str, Tensor] = {name: linear.weight.detach() for name, linear in linears.items()}
        self.biases: dict[str, Tensor | None] = {
            name: None if linear.bias is None else linear.bias.detach() for name, linear in linears.items()
        }
        self.activation_clip = TypedModuleDict({site: Clip(1) for site in self.sites})
        self.weight_clip = TypedModuleDict(
            {module_key(n): _weight_clip(n, w, quantizers) for n, w in self.weights.items()}
        )
        self.cache_clip: TypedModuleDict[Clip] = TypedModuleDict()
        self._sublayer = (sublayer,)  # in a tuple, so that nn.Module does not register its modules as children
        # A weak reference avoids a cycle: weights are freed at once, not at the next garbage collection.
        us = weakref.proxy(self)

        def reader(site: str) -> Callable[[Tensor], Tensor]:
            return lambda x: us.read(site, x)

        shared = {site: SharedInput(reader(site), len(names)) for site, names in self.sites.items()}
        self.projections = sublayer.install(shared, product=reduced_linear)
        if sublayer.name == "attention":
            self.cache_clip.update(
                {site: Clip(_head_transform(transforms, site).heads, 1, 2) for site in ("key", "value")}
            )
            attach_cache_joint(sublayer.module, lambda query, key, value: us.cache(query, key, value))
        self.to(sublayer.device)

    @property
    def sublayer(self) -> Sublayer:
        return self._sublayer[0]

    def read(self, site: str, x: Tensor) -> Tensor:
        """The transformed and quantized input that the projections of a site share."""
        return self.quantizers.activations.fake(self.transforms[site].apply_to(x), self.activation_clip[site]())

    def cache(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys in the key transform's basis, keys and values quantized; the value's basis is folded."""
        transform = _head_transform(self.transforms, "key")
        query, key = transform.apply_to_queries(query), transform.apply_to_keys(key)
        key = self.quantizers.keys.fake(key, self.cache_clip["key"]())
        return query, key, self.quantizers.values.fake(value, self.cache_clip["value"]())

    def folded_weight(self, name: str) -> Tensor:
        """The weight [d_out, d_in] of a projection folded, with gradients for the transforms."""
        return fold_weight(self.transforms, self.sites, name=name, weight=self.weights[name])

    def folded_weights(self) -> dict[str, Tensor]:
        """Every weight folded."""
        return {name: self.folded_weight(name) for name in self.weights}

    def clipping_factors(self) -> dict[str, Tensor]:
        """The factors of every clip, as `activation.<site>`, `weight.<projection>` and `cache.<site>`."""
        groups = {"activation": self.activation_clip, "weight": self.weight_clip, "cache": self.cache_clip}
        return {f"{group}.{name}": clip().detach() for group, clips in groups.items() for name, clip in clips.items()}

    def load_clipping_factors(self, factors: dict[str, Tensor]) -> None:
        """Set what `clipping_factors` gave."""
        groups = {"activation": self.activation_clip, "weight": self.weight_clip, "cache": self.cache_clip}
        for name, factor in factors.items():
            group, _, site = name.partition(".")
            groups[group][site].set(factor)

    def transformed_moment(self, site: str, moment: Tensor) -> Tensor:
        """T^T M T: the second moment of a site's input behind its transform, [d, d]."""
        if site == "o":
            value = _head_transform(self.transforms, "value")
            moment = value.apply_grouped(value.apply_grouped(moment).T)
        transform = self.transforms[site]
        return transform.apply_to(transform.apply_to(moment).T)

    def prepare(self) -> None:
        """Fold and quantize the weights once for the forward passes that follow."""
        for name, weight in self.folded_weights().items():
            if not self.quantizers.weights.is_identity:
                weight = self.quantizers.weights.fake(weight.contiguous(), self.weight_clip[module_key(name)]())
            self.projections[name].weight = weight
        for name, bias in fold_biases(self.transforms, self.sites, self.biases).items():
            self.projections[name].bias = bias

    def forward(self, normed: Tensor, arguments: dict[str, Any]) -> Tensor:
        """Run the quantized sublayer: its addition to the residual stream, from its norm's output; both [w, l, hidden]."""
        return self.sublayer.after_norm(normed, arguments)


def fold_weight(
    transforms: TypedModuleDict[Transform], sites: dict[str, tuple[str, ...]], *, name: str, weight: Tensor
) -> Tensor:
    """The weight [d_out, d_in] of a projection for its transformed input.

    v's rows and o's columns are in the value's basis, too.
    """
    site = next(site for site, names in sites.items() if name in names)
    if name == _value_projection(sites):
        weight = transforms["value"].apply_to(weight.T).T
    if site == "o":
        weight = _head_transform(transforms, "value").fold_grouped(weight)
    return transforms[site].fold(weight)


def fold_biases(
    transforms: TypedModuleDict[Transform], sites: dict[str, tuple[str, ...]], biases: dict[str, Tensor | None]
) -> dict[str, Tensor]:
    """The biases [d_out] of the projections that have one; v's in the value's basis."""
    return {
        name: transforms["value"].apply_to(bias) if name == _value_projection(sites) else bias
        for name, bias in biases.items()
        if bias is not None
    }


def identity_transforms(sublayer: Sublayer, kv_heads: int) -> dict[str, Transform]:
    """No transformation at any site: what round-to-nearest without calibration uses."""
    linears = sublayer.linears()
    inputs: dict[str, Transform] = {
        site: Identity(linears[names[0]].in_features) for site, names in sublayer.half.input_sites.items()
    }
    if sublayer.name == "ffn":
        return inputs
    eye = torch.eye(sublayer.head_dim(kv_heads)).repeat(kv_heads, 1, 1)
    return inputs | {"key": HeadAffine(eye), "value": HeadAffine(eye.clone())}


def _head_transform(transforms: TypedModuleDict[Transform] | Mapping[str, Transform], site: str) -> HeadTransform:
    """The transform of keys or values."""
    transform = transforms[site]
    assert isinstance(transform, HeadTransform), f"{type(transform).__name__} at {site}"
    return transform


def _value_projection(sites: dict[str, tuple[str, ...]]) -> str | None:
    """The last of q, k and v; None in the ffn half."""
    return sites["qkv"][2] if "qkv" in sites else None


def _weight_clip(name: str, weight: Tensor, quantizers: Quantizers) -> Clip:
    """The clipping factors of a projection's weight; ValueError, with its name, for a group wider than its rows."""
    d_out, d_in = weight.shape
    try:
        return Clip(*quantizers.weights.clip_shape(d_out, d_in))
    except ValueError as error:
        raise ValueError(f"{name}: {error}; give a smaller group") from None


def module_key(projection: str) -> str:
    """The last part of a projection's name: names of modules hold no dots."""
    return projection.rpartition(".")[2]
