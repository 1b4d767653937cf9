"""The transforms of a sublayer before any step, from what was observed at its sites."""

import torch
from torch import Tensor

from altq.experiment.recipe import Recipe
from altq.models.sublayer import Sublayer
from altq.transforms.balance import balance_scaling, without_signal
from altq.transforms.heads import HeadAffine
from altq.transforms.identity import Identity
from altq.transforms.scaling import smooth_scale
from altq.transforms.start import start_heads, start_mixing, start_transform
from altq.transforms.transform import Transform


def start_sublayer(
    sublayer: Sublayer, observed: dict[str, Tensor], *, kind: str, recipe: Recipe, generator: torch.Generator
) -> dict[str, Transform]:
    """Starting transforms by site: `kind` at the selected one, at all others the recipe's, affine or scalings.

    observed: see `altq.calibration.states.observe`. `balance` is at down, too. Where a moment is zero
    (`silent_sites`), nothing is balanced and no channel is scaled. Source: section 4.1.
    """

    def at_input(site: str, site_kind: str) -> Transform:
        return start_transform(
            site_kind,
            moment_x=observed[f"{site}.moment"][0],
            moment_w=observed[f"{site}.sensitivity"][0],
            scale=_start_scale(sublayer, site, observed=observed, recipe=recipe),
            structure=recipe.structure,
            longest_run=recipe.longest_run,
            start=recipe.start,
            generator=generator,
        )

    selected = sublayer.half.selected_site
    transforms = {selected: at_input(selected, kind)}
    if sublayer.name == "ffn":
        return transforms | {"down": at_input("down", "balance" if kind == "balance" else recipe.other_sites)}
    if recipe.other_sites == "scaling":
        return transforms | _scaled_heads(_start_scale(sublayer, "o", observed=observed, recipe=recipe), observed)
    key, value = (
        start_heads(
            observed[f"{site}.moment"], observed[f"{site}.sensitivity"], start=recipe.start, generator=generator
        )
        for site in ("key", "value")
    )
    with torch.no_grad():
        moment = value.apply_grouped(value.apply_grouped(observed["o.moment"][0]).T)
        sensitivity = value.fold_grouped(value.fold_grouped(observed["o.sensitivity"][0]).T)
    heads = len(moment) // value.head_dim
    mixing = start_mixing(moment, sensitivity, heads, start=recipe.start, generator=generator)
    return transforms | {"key": key, "value": value, "o": mixing}


def silent_sites(observed: dict[str, Tensor]) -> list[str]:
    """The sites of a sublayer at which a moment is zero, for keys and values with the heads: `o`, `value of head 1`.

    So it is where weights are zero: nothing reaches the site, or what reaches it changes nothing.
    """
    silent = []
    for site in sorted(name.removesuffix(".moment") for name in observed if name.endswith(".moment")):
        heads = without_signal(observed[f"{site}.moment"], observed[f"{site}.sensitivity"])
        if heads.all():
            silent.append(site)
        else:
            silent += [f"{site} of head {head}" for head in heads.nonzero().flatten().tolist()]
    return silent


def _start_scale(sublayer: Sublayer, site: str, *, observed: dict[str, Tensor], recipe: Recipe) -> Tensor | None:
    """The scaling [d] that stands before the kind at the input of linear layers; None for none."""
    moment = observed[f"{site}.moment"][0]
    match recipe.scaling:
        case "none":
            return None
        case "ones":
            return torch.ones(len(moment), dtype=torch.float64, device=moment.device)
        case "balance":
            return balance_scaling(moment, observed[f"{site}.sensitivity"][0])
        case "smooth":
            linears = sublayer.linears()
            columns = torch.cat([linears[name].weight for name in sublayer.half.input_sites[site]])
            return smooth_scale(observed[f"{site}.peak"], columns.abs().amax(0), recipe.smooth_alpha)


def _scaled_heads(scale: Tensor | None, observed: dict[str, Tensor]) -> dict[str, Transform]:
    """A scaling of o's input that folds into v: heads that share a value head share its scale (geometric mean)."""
    kv_heads, head_dim, _ = observed["value.moment"].shape
    size = len(observed["o.moment"][0])
    eye = torch.eye(head_dim, device=observed["o.moment"].device).repeat(kv_heads, 1, 1)
    value = eye.clone()
    if scale is not None:
        value = torch.diag_embed(scale.log().view(kv_heads, -1, head_dim).mean(1).exp()).float()
    return {"key": HeadAffine(eye), "value": HeadAffine(value), "o": Identity(size)}
