"""States of the full-precision model: hidden states, moments and peaks, once per model and seed.

state[s] is the residual stream that enters sublayer s, state[2n] what leaves the last block; the target of sublayer s
is state[s + 1] - state[s]. Second moments are those of every site's input, tokens weighted as the loss weights them.
"""

import math
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from altq.experiment.kinds import HALVES
from altq.models.joints import SharedInput, attach_cache_joint
from altq.models.skeleton import Skeleton
from altq.models.sublayer import Sublayer
from altq.runtime.files import atomic, read_json, require_space, sha256, write_json
from altq.runtime.precision import reduced_linear, reduced_products
from altq.runtime.progress import progress
from altq.runtime.resume import Scratch
from altq.runtime.tensor_files import read_hidden_states, write_tensors, written_hidden_states

WINDOWS_PER_BATCH = 4
STATES_FILE = "states.json"
TOKENS_FILE = "tokens.npy"
SCRATCH = "states.scratch"
MOMENT_WINDOWS = 16
"""Moments and sensitivities settle with fewer windows than the steps use."""
LEAST_MEAN_SQUARE = 1e-6
"""What norms add to the mean square that they divide by, at least: below it a token is not weighted more."""


def token_weights(loss: str, output_state: Tensor) -> Tensor:
    """The weight of each token in the loss: [..., hidden] -> [..., 1].

    `mse` weights all alike. `relative` weights by the inverse mean square of the residual stream after the sublayer:
    the next norm divides by it, and a few tokens carry massive activations that would otherwise be the whole loss. A
    token that is zero, as those of zero embeddings are, has the weight of LEAST_MEAN_SQUARE.
    """
    if loss == "mse":
        return torch.ones_like(output_state[..., :1])
    return 1 / output_state.square().mean(-1, keepdim=True).clamp(min=LEAST_MEAN_SQUARE)


def second_moment(x: Tensor) -> Tensor:
    """sum_t x_t^T x_t over all tokens: [batch, length, d] -> [1, d, d], [batch, heads, length, d] -> [heads, d, d]."""
    heads = x.unsqueeze(1) if x.ndim == 3 else x
    rows = heads.transpose(0, 1).flatten(1, 2)  # [heads, tokens, d]
    with reduced_products():
        return rows.mT @ rows


class _Observers:
    """Observers of the joints of one full-precision sublayer, and of the gradients that come back through them.

    With a random probe r at the output, g_t = d(r.y)/dx_t is how sensitive the output is to an error at token t of a
    site: E[g_t^T g_t] is the Gauss-Newton metric J^T J of that error. A token matters as much as its sensitivity, and
    its quantization noise grows with its own size; so moments weight tokens by |g_t|^2 and sensitivities by |x_t|^2.
    """

    def __init__(self, sublayer: Sublayer) -> None:
        self.totals: dict[str, Tensor] = {}
        sites = sublayer.half.input_sites
        shared = {site: SharedInput(partial(self._see, site), len(names)) for site, names in sites.items()}
        sublayer.install(shared, product=reduced_linear)
        if sublayer.name == "attention":
            attach_cache_joint(sublayer.module, self._see_cache)

    def _see(self, site: str, x: Tensor) -> Tensor:
        """x: [batch, length, d] or [batch, heads, length, d], part of a graph."""
        peak = x.detach().abs().amax(dim=(0, -2))
        self.totals[f"{site}.peak"] = torch.maximum(self.totals.get(f"{site}.peak", peak), peak)
        x.register_hook(partial(self._accumulate, site, x.detach()))
        return x

    def _see_cache(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return query, self._see("key", key), self._see("value", value)

    def _accumulate(self, site: str, x: Tensor, gradient: Tensor) -> None:
        for name, rows, weight in (("moment", x, gradient), ("sensitivity", gradient, x)):
            self._add(f"{site}.{name}", second_moment(rows * weight.norm(dim=-1, keepdim=True)))

    def _add(self, name: str, moment: Tensor) -> None:
        total = self.totals.get(name)
        self.totals[name] = moment if total is None else total.add_(moment)


@torch.no_grad()
def run_sublayer(sublayer: Sublayer, states: Tensor, arguments: dict[str, Any], *, out: Tensor | None = None) -> Tensor:
    """The residual stream after a full-precision sublayer: [windows, length, hidden] -> the same, in `out` if given."""
    outputs = torch.empty_like(states) if out is None else out
    for rows in batches(len(states)):
        outputs[rows] = states[rows] + sublayer.after_norm(sublayer.norm(states[rows]), arguments)
    return outputs


def observe(
    sublayer: Sublayer,
    states: Tensor,
    outputs: Tensor,
    *,
    arguments: dict[str, Any],
    loss: str,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Second moments, sensitivities and peaks of every site of a full-precision sublayer, whose linears it replaces.

    states, outputs: [windows, length, hidden]. Returns `site.moment` and `site.sensitivity`: [1, d, d] at the input of
    linear layers, [kv_heads, d, d] for `key` and `value`; and `site.peak`, max|x| of each channel: [d], [kv_heads, d].
    """
    observers = _Observers(sublayer)
    for rows in batches(len(states)):
        weights = token_weights(loss, outputs[rows])
        normed = sublayer.norm(states[rows]).requires_grad_()
        added = sublayer.after_norm(normed, arguments)
        added.backward(torch.randn(added.shape, generator=generator) * weights.sqrt())
    return observers.totals


def spread(num_windows: int, count: int) -> Tensor:
    """The indices of `count` windows (all, where there are fewer), spread evenly."""
    return torch.linspace(0, num_windows - 1, min(count, num_windows)).round().long()


def windows_of_step(step: int, num_windows: int, count: int) -> Tensor:
    """The indices of an optimiser step's `count` windows: the next ones, over and over (all, where there are fewer)."""
    first = step % max(1, num_windows // count) * count
    return torch.arange(first, min(first + count, num_windows))


def batches(num_windows: int) -> Iterator[slice]:
    """Consecutive slices of at most WINDOWS_PER_BATCH windows."""
    return (slice(start, start + WINDOWS_PER_BATCH) for start in range(0, num_windows, WINDOWS_PER_BATCH))


def record_states(
    model_folder: str | Path, tokens: np.ndarray, *, loss: str, folder: str | Path, fingerprint: str
) -> None:
    """Write tokens [windows, length], and the full-precision model's states over them, to `folder`.

    A run of the same `fingerprint` that was stopped goes on at the sublayer where it stopped. Raises OSError where the
    disk cannot hold the states and ValueError where one is not finite.
    """
    folder = Path(folder)
    skeleton = Skeleton(model_folder)
    num_sublayers = 2 * skeleton.num_blocks
    shape = (*tokens.shape, skeleton.config.hidden_size)
    (folder / STATES_FILE).unlink(missing_ok=True)
    with Scratch(folder / SCRATCH, fingerprint) as scratch:
        generator = torch.Generator().manual_seed(0)
        if not scratch.units:
            require_space(folder, 4 * math.prod(shape) * (num_sublayers + 1))
            with atomic(folder / TOKENS_FILE) as partial, open(partial, "wb") as file:
                np.save(file, tokens)
            with written_hidden_states(_state_path(folder, 0), shape) as embedded:
                skeleton.embed_into(torch.from_numpy(tokens).long(), embedded)
            scratch.add(_position(generator), [folder / TOKENS_FILE, _state_path(folder, 0)])
        generator.set_state(torch.frombuffer(bytearray.fromhex(scratch.units[-1]), dtype=torch.uint8))
        arguments = skeleton.block_arguments(tokens.shape[1])
        for s in progress(range(len(scratch.units) - 1, num_sublayers), "full-precision states"):
            _record_sublayer(skeleton, s, arguments=arguments[s // 2], loss=loss, generator=generator, folder=folder)
            scratch.add(_position(generator), [_observed_path(folder, s), _state_path(folder, s + 1)])
        description = {"loss": loss, "num_sublayers": num_sublayers, "shape": list(shape), "files": scratch.files}
        write_json(folder / STATES_FILE, description)


def _position(generator: torch.Generator) -> str:
    """Where the generator of probes stands."""
    return generator.get_state().numpy().tobytes().hex()


def _record_sublayer(
    skeleton: Skeleton, s: int, *, arguments: dict[str, Any], loss: str, generator: torch.Generator, folder: Path
) -> None:
    """Write the state after sublayer s, and its moments, sensitivities and peaks."""
    sublayer = Sublayer(skeleton.resident_block(s // 2), skeleton.family, HALVES[s % 2])
    states, windows = read_hidden_states(_state_path(folder, s)), slice(MOMENT_WINDOWS)
    with written_hidden_states(_state_path(folder, s + 1), tuple(states.shape)) as outputs:
        run_sublayer(sublayer, states, arguments, out=outputs)
        if not all(outputs[rows].isfinite().all() for rows in batches(len(outputs))):
            where = skeleton.weights.folder
            raise ValueError(f"{where}: the full-precision model's state after sublayer {s} is not finite")
        observed = observe(
            sublayer, states[windows], outputs[windows], arguments=arguments, loss=loss, generator=generator
        )
    write_tensors(_observed_path(folder, s), observed)


def _state_path(folder: Path, index: int) -> Path:
    return folder / f"state_{index:03d}.npy"


def _observed_path(folder: Path, sublayer: int) -> Path:
    return folder / f"observed_{sublayer:03d}.safetensors"


class States:
    """The folder that `record_states` wrote; hidden states are memory-mapped.

    ValueError where a file that is read is not the one that was written: damaged, or of other states.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        description = read_json(self.folder / STATES_FILE)
        if "files" not in description:
            raise ValueError(f"{self.folder / STATES_FILE} has no hashes of its files; run `altq states` again")
        self.loss: str = description["loss"]
        self.num_sublayers: int = description["num_sublayers"]
        self.num_windows, self.length, self.hidden = description["shape"]
        self._files: dict[str, str] = description["files"]
        self._whole: set[Path] = set()

    def state(self, index: int) -> Tensor:
        """Map the residual stream at a border of sublayers into memory: [windows, length, hidden]."""
        return read_hidden_states(self._checked(_state_path(self.folder, index)))

    def tokens(self) -> Tensor:
        """Read the tokens [windows, length]."""
        return torch.from_numpy(np.load(self._checked(self.folder / TOKENS_FILE))).long()

    def observed(self, sublayer: int) -> dict[str, Tensor]:
        """Read the moments, sensitivities and peaks of a sublayer, see `observe`."""
        return load_file(self._checked(_observed_path(self.folder, sublayer)))

    def fingerprint_of(self, sublayers: Sequence[int]) -> dict[str, Any]:
        """Describe all that a fit of consecutive sublayers reads of the states: the loss and the hashes of files."""
        states = (_state_path(self.folder, index) for index in (sublayers[0], sublayers[-1] + 1))
        observed = (_observed_path(self.folder, s) for s in sublayers)
        return {"loss": self.loss, "files": [self._files[path.name] for path in (*states, *observed)]}

    def fingerprint_of_output(self) -> dict[str, Any]:
        """Describe all that a fit of the whole model reads: the hashes of the tokens and of the last state."""
        paths = (self.folder / TOKENS_FILE, _state_path(self.folder, self.num_sublayers))
        return {"files": [self._files[path.name] for path in paths]}

    def _checked(self, path: Path) -> Path:
        """A file of these states; its hash is compared once."""
        if path not in self._whole:
            if path.is_file() and (seen := sha256(path)) != self._files[path.name]:
                raise ValueError(
                    f"{path} has sha256 {seen}, but {self.folder / STATES_FILE} says {self._files[path.name]}: it is "
                    f"damaged or of other states; remove {self.folder} and run `altq states` again"
                )
            self._whole.add(path)
        return path
