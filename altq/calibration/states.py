"""What calibration needs to know of the full-precision model: hidden states and second moments, once per model and seed.

state[s] is the residual stream that enters sublayer s, state[2n] what leaves the last block; the target of sublayer s
is state[s + 1] - state[s]. Second moments are those of every site's input, tokens weighted as the loss weights them.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from altq.files import atomic, read_json, require_space, write_json
from altq.models.joints import SharedInput, attach_cache_joint
from altq.models.skeleton import Skeleton
from altq.models.sublayer import HALVES, Sublayer
from altq.precision import reduced_products

WINDOWS_PER_BATCH = 4


def token_weights(loss: str, output_state: Tensor) -> Tensor:
    """The weight of each token in the loss: [..., hidden] -> [..., 1].

    `mse` weights all alike. `relative` weights by the inverse mean square of the residual stream after the sublayer:
    the next norm divides by it, and a few tokens carry massive activations that would otherwise be the whole loss.
    """
    if loss == "mse":
        return torch.ones_like(output_state[..., :1])
    return 1 / output_state.square().mean(-1, keepdim=True)


class _MomentObserver:
    """Accumulates sum_t w_t x_t^T x_t over tokens: [heads, d, d]."""

    def __init__(self) -> None:
        self._seen: Tensor | None = None
        self.total: Tensor | None = None

    def see(self, x: Tensor) -> Tensor:
        """Remember x [batch, length, d] until its weights are known."""
        self._seen = x.unsqueeze(1)
        return x

    def see_heads(self, x: Tensor) -> None:
        """The same for x [batch, heads, length, d]."""
        self._seen = x

    def accumulate(self, weights: Tensor) -> None:
        """Add what was seen, weighted by [batch, length, 1]."""
        x = (self._seen * weights.sqrt().unsqueeze(1)).transpose(0, 1).flatten(1, 2)  # [heads, tokens, d]
        with reduced_products():
            moment = x.mT @ x
        self.total = moment if self.total is None else self.total + moment
        self._seen = None


@torch.no_grad()
def observe(sublayer: Sublayer, states: Tensor, arguments: dict[str, Any], loss: str) -> tuple[Tensor, dict[str, Tensor]]:
    """Run a full-precision sublayer over [windows, length, hidden]: (its output state, second moments by site).

    Moments are [d, d] at the input of linear layers and [heads, d, d] for `query`, `key` and `value`.
    """
    sites = sublayer.half.input_sites
    observers = {site: _MomentObserver() for site in sites}
    sublayer.install({site: SharedInput(observers[site].see, len(names)) for site, names in sites.items()})
    if sublayer.name == "attention":
        heads = {site: _MomentObserver() for site in ("query", "key", "value")}

        def see_cache(*tensors: Tensor) -> tuple[Tensor, ...]:
            for observer, x in zip(heads.values(), tensors):
                observer.see_heads(x)
            return tensors

        attach_cache_joint(sublayer.module, see_cache)
        observers |= heads
    outputs = torch.empty_like(states)
    for batch in range(0, len(states), WINDOWS_PER_BATCH):
        rows = slice(batch, batch + WINDOWS_PER_BATCH)
        outputs[rows] = states[rows] + sublayer.after_norm(sublayer.norm(states[rows]), arguments)
        weights = token_weights(loss, outputs[rows])
        for observer in observers.values():
            observer.accumulate(weights)
    return outputs, {site: o.total.squeeze(0) if site in sites else o.total for site, o in observers.items()}


def record_states(model: str | Path, tokens: np.ndarray, loss: str, folder: str | Path) -> None:
    """Write states and moments of the full-precision model over tokens [windows, length] to `folder`.

    Raises OSError where the disk cannot hold them and ValueError where a state is not finite.
    """
    folder = Path(folder)
    skeleton = Skeleton(model)
    num_sublayers = 2 * skeleton.num_blocks
    require_space(folder, 4 * tokens.size * skeleton.config.hidden_size * (num_sublayers + 1))
    states, arguments = skeleton.embed(torch.from_numpy(tokens).long())
    _write_state(folder, 0, states)
    for s in tqdm(range(num_sublayers), desc="full-precision states", unit="sublayer"):
        block, half = divmod(s, 2)
        module = skeleton.block(block) if half == 0 else module
        states, moments = observe(Sublayer(module, skeleton.family, HALVES[half]), states, arguments[block], loss)
        if not torch.isfinite(states).all():
            raise ValueError(f"{model}: the full-precision model's state after sublayer {s} is not finite")
        _write_state(folder, s + 1, states)
        with atomic(folder / f"moments_{s:03d}.safetensors") as partial:
            save_file({site: moment.contiguous() for site, moment in moments.items()}, partial)
    write_json(folder / "states.json", {"loss": loss, "num_sublayers": num_sublayers, "shape": list(states.shape)})


def _write_state(folder: Path, index: int, state: Tensor) -> None:
    with atomic(folder / f"state_{index:03d}.npy") as partial, open(partial, "wb") as file:
        np.save(file, state.numpy())


class States:
    """The folder that `record_states` wrote; hidden states are memory-mapped."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        description = read_json(self.folder / "states.json")
        self.loss: str = description["loss"]
        self.num_windows, self.length, self.hidden = description["shape"]

    def state(self, index: int) -> Tensor:
        """[windows, length, hidden], read lazily."""
        return torch.from_numpy(np.load(self.folder / f"state_{index:03d}.npy", mmap_mode="c"))

    def moments(self, sublayer: int) -> dict[str, Tensor]:
        return load_file(self.folder / f"moments_{sublayer:03d}.safetensors")
