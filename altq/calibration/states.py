"""States of the full-precision model: hidden states, moments and peaks, once per model and seed.

state[s] is the residual stream that enters sublayer s, state[2n] what leaves the last block; the target of sublayer s
is state[s + 1] - state[s]. Second moments are those of every site's input, tokens weighted as the loss weights them.
"""

import hashlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from altq.experiment.border_spacing import stored_borders
from altq.models.joints import SharedInput, attach_cache_joint
from altq.models.sublayer import Sublayer
from altq.runtime.batch_size import BatchSize
from altq.runtime.device import CPU
from altq.runtime.files import read_json, sha256
from altq.runtime.precision import reduced_linear, reduced_products
from altq.runtime.tensor_files import read_hidden_states

WINDOWS_PER_BATCH = 4
BATCH_SIZE = BatchSize()
"""That of passes of the full-precision model."""

STATES_FILE = "states.json"
TOKENS_FILE = "tokens.npy"
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
    device = sublayer.device

    def run() -> None:
        for rows in batches(len(states)):
            entering = states[rows].to(device)
            outputs[rows] = entering + sublayer.after_norm(sublayer.norm(entering), arguments)

    BATCH_SIZE.fit(run, f"states after {sublayer.name}")
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
    observers, device = _Observers(sublayer), sublayer.device
    position = generator.get_state()

    def run() -> None:
        observers.totals.clear()
        generator.set_state(position)
        for rows in batches(len(states)):
            weights = token_weights(loss, outputs[rows].to(device))
            normed = sublayer.norm(states[rows].to(device)).requires_grad_()
            added = sublayer.after_norm(normed, arguments)
            added.backward(torch.randn(added.shape, generator=generator).to(device) * weights.sqrt())

    BATCH_SIZE.fit(run, f"moments of {sublayer.name}")
    return observers.totals


def spread(num_windows: int, count: int) -> Tensor:
    """The indices of `count` windows (all, where there are fewer), spread evenly."""
    return torch.linspace(0, num_windows - 1, min(count, num_windows)).round().long()


def windows_of_step(step: int, num_windows: int, count: int) -> Tensor:
    """The indices of an optimiser step's `count` windows: the next ones, over and over (all, where there are fewer)."""
    first = step % max(1, num_windows // count) * count
    return torch.arange(first, min(first + count, num_windows))


def batches(num_windows: int) -> Iterator[slice]:
    """Consecutive slices of at most WINDOWS_PER_BATCH windows, as many as the full-precision model takes at once."""
    return BATCH_SIZE.slices(num_windows, WINDOWS_PER_BATCH)


def digest(states: Tensor) -> str:
    """Hexadecimal digest of float32 hidden states [windows, length, hidden], the same on every device.

    The bits of a token, as integers, are multiplied by odd numbers and summed modulo 2^32: a change in one place changes
    the token's sum. A GPU does that at the speed of its memory, where a cryptographic hash would wait for a copy.
    """
    odd = torch.arange(1, 2 * states.shape[-1], 2, dtype=torch.int32, device=states.device)
    sums = [(window.view(torch.int32) * odd).sum(-1, dtype=torch.int32) for window in states]
    return hashlib.sha256(torch.stack(sums).cpu().numpy().tobytes()).hexdigest()


def state_path(folder: Path, index: int) -> Path:
    """The states at a border that is stored."""
    return folder / f"state_{index:03d}.npy"


def observed_path(folder: Path, sublayer: int) -> Path:
    """File of the results of `observe`, where every border is stored."""
    return folder / f"observed_{sublayer:03d}.safetensors"


def kept_path(folder: Path, sublayer: int) -> Path:
    """File that stands for the moments of a sublayer where not every border is stored.

    weights: of the tokens, by the state after it. generator: where that of the probes stood before it.
    """
    return folder / f"kept_{sublayer:03d}.safetensors"


class States:
    """The folder that `record_states` wrote; hidden states are memory-mapped, moments are read onto a device.

    ValueError where a file that is read is not the one that was written: damaged, or of other states.
    """

    def __init__(self, folder: str | Path, device: torch.device = CPU) -> None:
        self.folder, self.device = Path(folder), device
        description = read_json(self.folder / STATES_FILE)
        if lacking := {"files", "borders", "border_every"} - description.keys():
            raise ValueError(f"{self.folder / STATES_FILE} lacks {min(lacking)}; run `altq states` again")
        self.loss: str = description["loss"]
        self.num_sublayers: int = description["num_sublayers"]
        self.num_windows, self.length, self.hidden = description["shape"]
        self.border_every: int = description["border_every"]
        self.stored = frozenset(stored_borders(self.num_sublayers // 2, self.border_every))
        self.digests: list[str] = description["borders"]
        self._files: dict[str, str] = description["files"]
        self._whole: set[Path] = set()

    def state(self, index: int) -> Tensor:
        """Map the residual stream at a stored border into memory: [windows, length, hidden]."""
        return read_hidden_states(self._checked(state_path(self.folder, index)))

    def tokens(self) -> Tensor:
        """Read the tokens [windows, length]."""
        return torch.from_numpy(np.load(self._checked(self.folder / TOKENS_FILE))).long()

    def observed(self, sublayer: int) -> dict[str, Tensor]:
        """Read the moments, sensitivities and peaks of a sublayer, see `observe`; where every border is stored."""
        tensors = load_file(self._checked(observed_path(self.folder, sublayer)))
        return {name: tensor.to(self.device) for name, tensor in tensors.items()}

    def probes(self, sublayer: int) -> torch.Generator:
        """The generator that draws the probes of a sublayer; where not every border is stored."""
        generator = torch.Generator()
        generator.set_state(self._kept(sublayer)["generator"])
        return generator

    def token_weights(self, sublayer: int) -> Tensor:
        """The weights of all tokens in the loss of a sublayer, see `token_weights`: [windows, length, 1]."""
        if sublayer + 1 in self.stored:
            return token_weights(self.loss, self.state(sublayer + 1))
        return self._kept(sublayer)["weights"]

    def fingerprint_of(self, sublayers: Sequence[int]) -> dict[str, Any]:
        """Describe all that a fit of consecutive sublayers reads of the states, whether or not it is stored.

        The digests of the states before and after; second moments follow from these and from the model.
        """
        return {"loss": self.loss, "borders": [self.digests[sublayers[0]], self.digests[sublayers[-1] + 1]]}

    def fingerprint_of_output(self) -> dict[str, Any]:
        """Describe all that a fit of the whole model reads: the hashes of the tokens and of the last state."""
        paths = (self.folder / TOKENS_FILE, state_path(self.folder, self.num_sublayers))
        return {"files": [self._files[path.name] for path in paths]}

    def _kept(self, sublayer: int) -> dict[str, Tensor]:
        return load_file(self._checked(kept_path(self.folder, sublayer)))

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
