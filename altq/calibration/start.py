"""The transforms of a sublayer before any step, from its second moments."""

import torch
from torch import Tensor

from altq.models.sublayer import Sublayer
from altq.transforms.identity import Identity
from altq.transforms.start import start_heads, start_mixing, start_transform
from altq.transforms.transform import Transform


def weight_moment(weights: list[Tensor]) -> Tensor:
    """sum W^T W over the projections that share an input, float64 [d_in, d_in]."""
    return sum(w.double().T @ w.double() for w in weights)


def start_sublayer(
    sublayer: Sublayer,
    moments: dict[str, Tensor],
    kind: str,
    *,
    start: str,
    scaling: bool,
    structure: str,
    generator: torch.Generator,
) -> dict[str, Transform]:
    """`kind` at the selected site and affine at all others (section 4.1 of the paper); identity is identity everywhere."""
    half = sublayer.half
    weights = {name: linear.weight for name, linear in sublayer.linears().items()}
    common = {"start": start, "generator": generator}
    linear = common | {"scaling": scaling, "structure": structure}

    def at_input(site: str, site_kind: str) -> Transform:
        reading = weight_moment([weights[name] for name in half.input_sites[site]])
        return start_transform(site_kind, moments[site], reading, **linear)

    selected = half.selected_site
    transforms = {selected: at_input(selected, kind)}
    if sublayer.name == "ffn":
        return transforms | {"down": at_input("down", kind if kind == "identity" else "affine")}
    if kind == "identity":
        return transforms | {"o": Identity(len(moments["o"]))}

    kv_heads, head_dim, _ = moments["key"].shape
    queries = moments["query"].unflatten(0, (kv_heads, -1)).sum(1)
    output = weight_moment([weights[name] for name in half.input_sites["o"]])
    heads = len(output) // head_dim
    by_head = torch.stack([output[h * head_dim :, h * head_dim :][:head_dim, :head_dim] for h in range(heads)])
    value = start_heads(moments["value"], by_head.unflatten(0, (kv_heads, -1)).sum(1), **common)
    transforms["key"] = start_heads(moments["key"], queries, **common)
    transforms["value"] = value
    with torch.no_grad():
        seen = value.apply_grouped(value.apply_grouped(moments["o"]).T)
        read = value.fold_grouped(value.fold_grouped(output.float()).T)
    transforms["o"] = start_mixing(seen, read, heads, **common)
    return transforms
