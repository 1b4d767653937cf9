"""The transforms of a sublayer before any step, from its second moments."""

import torch
from torch import Tensor

from altq.models.sublayer import Sublayer
from altq.transforms.identity import Identity
from altq.transforms.start import start_heads, start_mixing, start_transform
from altq.transforms.transform import Transform


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
    common = {"start": start, "generator": generator}

    def at_input(site: str, site_kind: str) -> Transform:
        pair = moments[f"{site}.moment"][0], moments[f"{site}.sensitivity"][0]
        return start_transform(site_kind, *pair, scaling=scaling, structure=structure, **common)

    selected = half.selected_site
    transforms = {selected: at_input(selected, kind)}
    if sublayer.name == "ffn":
        return transforms | {"down": at_input("down", kind if kind == "identity" else "affine")}
    output_moment, output_sensitivity = moments["o.moment"][0], moments["o.sensitivity"][0]
    if kind == "identity":
        return transforms | {"o": Identity(len(output_moment))}
    for site in ("key", "value"):
        transforms[site] = start_heads(moments[f"{site}.moment"], moments[f"{site}.sensitivity"], **common)
    value = transforms["value"]
    with torch.no_grad():
        seen = value.apply_grouped(value.apply_grouped(output_moment).T)
        read = value.fold_grouped(value.fold_grouped(output_sensitivity).T)
    heads = len(output_moment) // value.head_dim
    return transforms | {"o": start_mixing(seen, read, heads, **common)}
