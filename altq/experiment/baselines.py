"""The baselines' recipes, as their authors publish them. Imports nothing heavy, since the workflow reads it.

The configuration's `baselines` section overrides single keys, in the first place the budget of steps. All methods share
one quantizer and one rounding; `DIFFERENCES` lists where a baseline departs from its authors' method.
"""

from altq.experiment.end_to_end_recipe import EndToEndRecipe
from altq.experiment.recipe import Recipe

SMOOTHQUANT = Recipe(
    scaling="smooth",
    smooth_alpha=0.85,
    other_sites="scaling",
    initial_clip=1.0,
    clip_search=False,
    signed_scale=False,
    steps=0,
)
"""Xiao et al., arXiv 2211.10438; alpha is its repository's for LLaMA models. The kind is `scaling`."""

FLATQUANT = Recipe(
    unit="block",
    start="cayley",
    scaling="smooth",
    smooth_alpha=0.3,
    initial_clip=0.982,
    clip_search=False,
    signed_scale=False,
    steps=480,  # 15 epochs of 128 windows, 4 at a time
    fitted=["attention", "ffn"],
    windows_per_step=4,
    learning_rate=5e-3,
    clip_rate_factor=10.0,
    betas=(0.9, 0.999),
    weight_decay=0.01,
)
"""Sun et al., arXiv 2410.09426, and the scripts of its repository. The kind is `affine`."""

QUAROT = EndToEndRecipe(trained=[], steps=0, activation_clip=0.9, cache_clip=0.95)
"""Ashkboos et al., arXiv 2404.00456: nothing is trained."""

SPINQUANT = EndToEndRecipe(
    trained=["residual", "value"],
    shared_value=True,
    loss="cross_entropy",
    optimiser="cayley_sgd",
    rotation_rate=1.5,
    steps=100,
    windows_per_step=8,
    asymmetric=True,
)
"""Liu et al., arXiv 2405.16406, and the scripts of its repository."""

OSTQUANT = EndToEndRecipe(
    trained=["residual", "value", "scaling"],
    loss="kl_top",
    top_k=1000,
    optimiser="riemannian_adam",
    rotation_rate=0.017,
    scaling_rate=0.0018,
    steps=150,
    windows_per_step=8,
    asymmetric=True,
)
"""Hu et al., arXiv 2501.13987; the rates are its repository's."""

BASELINES: dict[str, Recipe | EndToEndRecipe] = {
    "smoothquant": SMOOTHQUANT,
    "quarot": QUAROT,
    "spinquant": SPINQUANT,
    "ostquant": OSTQUANT,
    "flatquant": FLATQUANT,
}

END_TO_END = tuple(name for name, recipe in BASELINES.items() if isinstance(recipe, EndToEndRecipe))

DIFFERENCES: dict[str, tuple[tuple[str, str], ...]] = {
    "smoothquant": (
        ("scalings at o (one for all heads that share a value head) and down, too", "none at o and down"),
        ("the setting's bits", "8 bits, weights to nearest, no quantized cache"),
    ),
    "quarot": (
        ("a Hadamard matrix of its own for each value head", "the same for all value heads"),
        ("weight rows clipped by the squared error", "weight rows clipped by its power of 2.4"),
    ),
    "spinquant": (
        ("an orthogonal matrix across heads at o", "a scale for each head"),
        ("weight rows clipped by the squared error", "weight rows clipped by its power of 2.4"),
    ),
    "ostquant": (
        ("an orthogonal matrix across heads at o", "a scale for each head"),
        ("Hadamard starts", "starts from principal components and Hadamard matrices"),
        ("queries and keys are not scaled", "queries and keys are scaled"),
        ("weight rows clipped by the squared error", "weight rows clipped by its power of 2.4"),
    ),
    "flatquant": (
        ("free factors", "factors decomposed by singular values"),
        ("one clipping factor for projections that share an input", "a clipping factor for each projection"),
        ("keys and values with a matrix for each head", "one matrix for all heads"),
        ("steps that do not lower the loss are taken back", "all steps are kept"),
    ),
}
"""Differences from the authors' method besides budget and text, for the protocols: (here, by its authors)."""
