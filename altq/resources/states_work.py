"""Work of the full-precision model over the calibration windows: recording its states, and going past their borders."""

from altq.experiment.border_spacing import FLOAT, bytes_of_states, moment_elements
from altq.experiment.shape import Sizes
from altq.resources.block_work import KEPT_FOR_BACKWARD, WINDOWS_PER_BATCH, activations, forward, weights
from altq.resources.machine import Work

MOMENT_WINDOWS = 16


def recording(sizes: Sizes, windows: int, length: int, every: int) -> Work:
    """Work of recording the states, of which those at one border of blocks in `every` are stored."""
    passes = forward(sizes, windows * length, length) + _observing(sizes, windows, length)
    block = weights(sizes, 2) + activations(sizes, WINDOWS_PER_BATCH * length, KEPT_FOR_BACKWARD / 4)
    on_gpu = FLOAT * (sizes.outer_weights + 3 * moment_elements(sizes)) + block
    return passes.times(sizes.num_blocks) + Work(
        memory=on_gpu + 2 * _state(sizes, windows, length),
        on_gpu=on_gpu,
        bytes_written=bytes_of_states(sizes, windows, length, every),
    )


def passing(sizes: Sizes, windows: int, length: int, every: int, *, starts: int) -> Work:
    """Work of going past all borders, where a sublayer is started `starts` times from its moments.

    Either all is read, or blocks run again and moments are computed again, twice for each start. Memory is what that
    takes besides: three borders, and a block of its own; on a GPU one border, since a step's two lie there anyway.
    """
    reading = Work(bytes_read=bytes_of_states(sizes, windows, length, every))
    if every == 1:
        return reading
    passes = forward(sizes, windows * length, length) + _observing(sizes, windows, length).times(2 * starts)
    state, block = _state(sizes, windows, length), weights(sizes, 1)
    return passes.times(sizes.num_blocks) + reading + Work(memory=3 * state + block, on_gpu=state + block)


def _observing(sizes: Sizes, windows: int, length: int) -> Work:
    """Work of the second moments of a block: a pass with gradients over some of the windows."""
    tokens = min(MOMENT_WINDOWS, windows) * length
    moments = Work(products=4 * moment_elements(sizes) * tokens, elements=4 * moment_elements(sizes))
    return forward(sizes, tokens, length).times(3) + moments


def _state(sizes: Sizes, windows: int, length: int) -> float:
    """Bytes of the states at one border."""
    return FLOAT * windows * length * sizes.hidden
