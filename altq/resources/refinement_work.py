"""Work of refining a checkpoint: the full-precision model once over all windows, the steps, and judging them."""

from altq.experiment.border_spacing import FLOAT
from altq.experiment.experiment import Experiment
from altq.experiment.setting import Setting
from altq.experiment.shape import Sizes
from altq.resources.block_work import KEPT_FOR_BACKWARD, activations, forward, weights
from altq.resources.machine import Work

TOKENS_TOGETHER = 2048
"""Tokens that pass through the model at a time, but for longer windows."""


def refining(sizes: Sizes, experiment: Experiment, setting: str) -> Work:
    """Work of a job of an experiment that has the section `refinement`, without reading the model."""
    options, length = experiment.refinement, experiment.calibration.window_length
    assert options is not None, "the rule is there with the section alone"
    recorded, together = (options.windows + options.held_out_windows) * length, max(length, TOKENS_TOGETHER)
    judged = options.held_out_windows * length * (2 + options.steps // options.judged_every)
    # A step runs forward twice and backward once: codes, which stay, have no gradient.
    trained = 3 * options.steps * options.windows_per_step * length
    codes = sizes.num_blocks * sizes.block_weights
    state = FLOAT * recorded * sizes.hidden
    between_blocks = FLOAT * together * sizes.hidden * sizes.num_blocks
    at_work = codes + weights(sizes, 4) + activations(sizes, together, KEPT_FOR_BACKWARD) + between_blocks
    on_gpu = 2 * FLOAT * sizes.outer_weights + at_work
    head = Work(products=4 * sizes.embedding_weights, elements=8 * sizes.shape.vocab_size)
    return (
        forward(sizes, recorded + judged + trained, length).times(sizes.num_blocks)
        + head.times(judged + trained)
        + Work(
            memory=on_gpu + 2 * state,
            on_gpu=on_gpu,
            bytes_written=codes * Setting.parse(setting).average_bits / 8 + FLOAT * sizes.outer_weights + state,
        )
    )  # fmt: skip
