"""The transforms of a sublayer in a rotated residual stream before any step: Hadamard matrices."""

import torch

from altq.experiment.end_to_end_recipe import EndToEndRecipe
from altq.models.sublayer import Sublayer
from altq.transforms.hadamard import Hadamard, hadamard_factor, randomized_hadamard
from altq.transforms.heads import HeadAffine, HeadMixing, HeadRotation
from altq.transforms.identity import Identity
from altq.transforms.scaling import Scaled, Scaling
from altq.transforms.transform import Transform


def start_rotated_sublayer(
    sublayer: Sublayer, *, kv_heads: int, recipe: EndToEndRecipe, generator: torch.Generator
) -> dict[str, Transform]:
    """The transforms that go with a rotated residual stream: Hadamard at o, down, key and value, nothing else online.

    Where the recipe trains scalings, one stands at qkv, gate_up, down and value; all of them fold. In float64.
    """
    linears, sites = sublayer.linears(), sublayer.half.input_sites
    sizes = {site: linears[names[0]].in_features for site, names in sites.items()}
    selected = sublayer.half.selected_site
    scaled = "scaling" in recipe.trained
    size = sizes[selected]
    transforms: dict[str, Transform] = {selected: Scaling(torch.ones(size).double()) if scaled else Identity(size)}
    if sublayer.name == "ffn":
        size = sizes["down"]
        hadamard = Hadamard.of_size(size, generator)
        return transforms | {"down": Scaled(Scaling(torch.ones(size).double()), hadamard) if scaled else hadamard}
    head_dim = sublayer.head_dim(kv_heads)
    count = 1 if recipe.shared_value else kv_heads
    rotations = torch.stack([randomized_hadamard(head_dim, generator) for _ in range(count)])
    return transforms | {
        "key": HeadAffine(hadamard_factor(head_dim, generator).repeat(kv_heads, 1, 1)),
        "value": HeadRotation(rotations, torch.ones(kv_heads, head_dim).double()),
        "o": HeadMixing(hadamard_factor(sizes["o"] // head_dim, generator), sizes["o"]),
    }
