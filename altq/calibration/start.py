"""The transforms of a sublayer before any step, from its second moments."""

import torch
from torch import Tensor

from altq.calibration.recipe import Recipe
from altq.models.sublayer import Sublayer
from altq.transforms.heads import HeadAffine
from altq.transforms.identity import Identity
from altq.transforms.start import start_heads, start_mixing, start_transform
from altq.transforms.transform import Transform


def start_sublayer(
    sublayer: Sublayer, moments: dict[str, Tensor], kind: str, recipe: Recipe, generator: torch.Generator
) -> dict[str, Transform]:
    """`kind` at the selected site and affine at all others (section 4.1 of the paper); balance is at down, too."""
    half = sublayer.half
    common = {"start": recipe.start, "generator": generator}
    options = {"scaling": recipe.scaling, "structure": recipe.structure, "longest_run": recipe.longest_run}

    def at_input(site: str, site_kind: str) -> Transform:
        pair = moments[f"{site}.moment"][0], moments[f"{site}.sensitivity"][0]
        return start_transform(site_kind, *pair, **options, **common)

    transforms = {half.selected_site: at_input(half.selected_site, kind)}
    if sublayer.name == "ffn":
        return transforms | {"down": at_input("down", "balance" if kind == "balance" else "affine")}
    for site in ("key", "value"):
        transforms[site] = start_heads(moments[f"{site}.moment"], moments[f"{site}.sensitivity"], **common)
    value = transforms["value"]
    with torch.no_grad():
        seen = value.apply_grouped(value.apply_grouped(moments["o.moment"][0]).T)
        read = value.fold_grouped(value.fold_grouped(moments["o.sensitivity"][0]).T)
    heads = len(seen) // value.head_dim
    return transforms | {"o": start_mixing(seen, read, heads, **common)}


def identity_transforms(sublayer: Sublayer, kv_heads: int) -> dict[str, Transform]:
    """No transformation at any site: what round-to-nearest without calibration uses."""
    linears = sublayer.linears()
    inputs = {site: Identity(linears[names[0]].in_features) for site, names in sublayer.half.input_sites.items()}
    if sublayer.name == "ffn":
        return inputs
    key = sublayer.half.input_sites["qkv"][1]
    eye = torch.eye(linears[key].out_features // kv_heads).repeat(kv_heads, 1, 1)
    return inputs | {"key": HeadAffine(eye), "value": HeadAffine(eye.clone())}
