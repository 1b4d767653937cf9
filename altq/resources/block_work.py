"""Work of passing tokens through a block, and of calibrating one: the parts of the stages' work.

Counts are of one block. Arithmetic is in float32, whatever type a model is stored in.
"""

from altq.experiment.border_spacing import FLOAT, moment_elements
from altq.experiment.recipe import Recipe
from altq.experiment.setting import Setting
from altq.experiment.shape import Sizes
from altq.resources.machine import Work

EVALUATIONS_OF_A_CLIP = 5.5
"""Runs of a unit that the search takes to find one clipping factor."""

PASSES_OF_ROW_CLIPS = 30
"""Passes over the weights to find their rows' clipping factors."""

SITES = {"attention": 4, "ffn": 2}
"""Sites of each half that have a clipping factor."""

STARTING = 50
"""Elementwise passes over a second moment that the closed form of a site takes."""

KEPT_FOR_BACKWARD = 12
"""Copies of a block's activations that a graph keeps, and malloc with it."""

KEPT_ON_A_GPU = {"activations": 4.5, "weights": 6.0}
"""Copies of a block's activations and of its weights that a step keeps on a GPU, the block's own included."""

KEPT_FORWARD = 5
"""Copies of a block's activations that a forward pass without gradients keeps."""

WINDOWS_PER_BATCH = 4


def forward(sizes: Sizes, num_tokens: float, length: int) -> Work:
    """Work of passing tokens in windows of `length` through a block, quantizers included."""
    scores = sizes.shape.num_heads * length  # of one token
    products = 2 * sizes.block_weights + 4 * scores * sizes.head_dim + transform_products(sizes)
    return Work(products=num_tokens * products, elements=num_tokens * (sizes.token_elements + scores))


def transform_products(sizes: Sizes) -> float:
    """Products of a token with the Kronecker factors of every site: d channels cost 4 d^1.5."""
    return sum(4 * width**1.5 for width in sizes.site_widths) + 2 * (sizes.query + sizes.key_value) * sizes.head_dim


def activations(sizes: Sizes, num_tokens: float, copies: float) -> float:
    """Bytes of so many copies of a block's activations; attention keeps no scores of a whole batch."""
    return FLOAT * copies * num_tokens * sizes.token_elements


def weights(sizes: Sizes, copies: float) -> float:
    """Bytes of so many copies of a block's weights."""
    return FLOAT * copies * sizes.block_weights


def streamed(sizes: Sizes, num_tokens: float) -> float:
    """Bytes on a GPU that does not hold the whole model, in bfloat16, while it is fitted end to end.

    One block at work, the borders of all, and half of the tokens that are asked for at once.
    """
    tokens = num_tokens / 2
    outer, borders = 2 * sizes.outer_weights, FLOAT * sizes.num_blocks * tokens * sizes.hidden
    return outer + borders + weights(sizes, 6) + activations(sizes, tokens, KEPT_FOR_BACKWARD)


def share_of(half: str, sizes: Sizes) -> float:
    """A half's share of a block's work, by its weights and activations."""
    share = sizes.attention_weights / sizes.block_weights
    # Scores weigh on attention besides its weights.
    share = (share + 0.5) / 2
    return share if half == "attention" else 1 - share


def calibration(sizes: Sizes, recipe: Recipe, num_windows: int, length: int) -> Work:
    """Work of the start, clip search and steps of a block's two halves."""
    work = _start(sizes, recipe)
    if recipe.clip_search:
        run = forward(sizes, min(recipe.search_windows, num_windows) * length, length)
        for half, sites in SITES.items():
            runs = EVALUATIONS_OF_A_CLIP * sites
            work += run.times(runs if recipe.unit == "block" else runs * share_of(half, sizes))
        work += Work(elements=PASSES_OF_ROW_CLIPS * sizes.block_weights)
    work += _steps(sizes, recipe, num_tokens=min(recipe.windows_per_step, num_windows) * length, length=length)
    tokens = max(recipe.windows_per_step if recipe.steps else 0, recipe.search_windows) * length
    # Moments of the widest site, in float32 and in float64, are freed before the steps.
    starting = 2 * (FLOAT + 8) * max(sizes.site_widths) ** 2
    stepping = weights(sizes, 4) + activations(sizes, tokens, KEPT_FOR_BACKWARD)
    return work + Work(
        memory=weights(sizes, 1) + max(starting, stepping),
        on_gpu=max(weights(sizes, 1) + starting, step_on_gpu(sizes, recipe, tokens)),
    )


def step_on_gpu(sizes: Sizes, recipe: Recipe, num_tokens: float) -> float:
    """Bytes that a step of a unit holds on a GPU, its borders left out."""
    unit = weights(sizes, KEPT_ON_A_GPU["weights"]) + activations(sizes, num_tokens, KEPT_ON_A_GPU["activations"])
    if recipe.unit == "block":
        return unit
    return unit * max(sizes.attention_weights, sizes.ffn_weights) / sizes.block_weights


def _start(sizes: Sizes, recipe: Recipe) -> Work:
    if recipe.start == "balance" or recipe.scaling in ("balance", "smooth"):
        passes = STARTING if recipe.start == "balance" and recipe.other_sites == "affine" else STARTING / 10
        return Work(elements=passes * moment_elements(sizes))
    return Work()


def _steps(sizes: Sizes, recipe: Recipe, num_tokens: float, length: int) -> Work:
    """Work of all steps: forward and backward passes, each with the folding and quantizing of weights."""
    share = sum(share_of(half, sizes) for half in recipe.fitted)
    folding = Work(elements=2 * sizes.block_weights, products=4 * sizes.block_weights * sizes.hidden**0.5)
    return (forward(sizes, num_tokens, length) + folding).times(3 * recipe.steps * share)


def bytes_of_bank(sizes: Sizes, kind: str, setting: str, recipe: Recipe) -> float:
    """Bytes of a bank: transforms (a matrix in two factors, or whole heads) and a clip for each row or group."""
    rows: float = 2 * sizes.query + sizes.key_value + 2 * sizes.hidden + 2 * sizes.intermediate
    if (group := Setting.parse(setting).group) is not None:
        rows = max(rows, sizes.block_weights / group)
    dense = sum(min(width, recipe.longest_run) * width for width in sizes.site_widths)
    factors = dense if kind == "balance" else sum(4 * width for width in sizes.site_widths)
    heads = sizes.key_value * sizes.head_dim
    return FLOAT * sizes.num_blocks * (rows + factors + heads) + 4e3 * sizes.num_blocks


LAUNCHES_OF_A_COLUMN = 4
"""Operations that round a column of all rows in GPTQ."""


def gptq(sizes: Sizes) -> Work:
    """Work of factorizing the Hessians of a block and rounding its weights, column after column."""
    output_widths = (sizes.query + sizes.key_value, sizes.hidden, 2 * sizes.intermediate, sizes.hidden)
    pairs = zip(sizes.site_widths, output_widths, strict=True)
    return Work(
        solving=sum(2 * width**2 * outputs + width**3 for width, outputs in pairs),
        launches=LAUNCHES_OF_A_COLUMN * sum(sizes.site_widths),
    )
