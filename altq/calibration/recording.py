"""Recording the states of the full-precision model, once per model and seed, for `altq.calibration.states` to read."""

import logging
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from altq.calibration.states import (
    MOMENT_WINDOWS,
    STATES_FILE,
    TOKENS_FILE,
    batches,
    digest,
    kept_path,
    observe,
    observed_path,
    run_sublayer,
    state_path,
    token_weights,
)
from altq.experiment.border_spacing import Spacing, bytes_of_states, spacing, stored_borders
from altq.experiment.kinds import HALVES
from altq.experiment.shape import Sizes
from altq.models.skeleton import Skeleton
from altq.models.sublayer import Sublayer
from altq.runtime.device import CPU
from altq.runtime.files import atomic, free_space, require_space, write_json
from altq.runtime.progress import progress
from altq.runtime.resume import Scratch
from altq.runtime.tensor_files import read_hidden_states, write_tensors, written_hidden_states

log = logging.getLogger(__name__)

SCRATCH = "states.scratch"


def record_states(
    model_folder: str | Path,
    tokens: np.ndarray,
    *,
    loss: str,
    folder: str | Path,
    fingerprint: str,
    border_every: Spacing = 1,
    device: torch.device = CPU,
) -> None:
    """Write tokens [windows, length], and the full-precision model's states over them, to `folder`.

    border_every: which borders are stored, see `altq.experiment.border_spacing`. A run of the same `fingerprint` that was
    stopped goes on at the border that was stored last, and stores those that it would have stored. Raises OSError where
    the disk cannot hold the states and ValueError where one is not finite.
    """
    folder = Path(folder)
    skeleton = Skeleton(model_folder, device=device)
    (folder / STATES_FILE).unlink(missing_ok=True)
    with Scratch(folder / SCRATCH, fingerprint, device.type) as scratch:
        if not scratch.units:
            _begin(skeleton, tokens, folder=folder, scratch=scratch, border_every=border_every)
        recording = _Recording(skeleton, tokens.shape, loss=loss, folder=folder, scratch=scratch)
        for s in progress(range(recording.border, 2 * skeleton.num_blocks), "full-precision states"):
            recording.pass_sublayer(s)
        write_json(folder / STATES_FILE, recording.description)


def _begin(skeleton: Skeleton, tokens: np.ndarray, *, folder: Path, scratch: Scratch, border_every: Spacing) -> None:
    """Decide which borders are stored, and store tokens and embeddings."""
    for pattern in ("state_*", "observed_*", "kept_*"):  # of states with another spacing
        for path in folder.glob(pattern):
            path.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    sizes = Sizes(skeleton.weights.config.shape, skeleton.num_blocks, str(skeleton.weights.folder))
    num_windows, length = tokens.shape
    every = spacing(border_every, sizes, num_windows=num_windows, length=length, free=free_space(folder))
    require_space(folder, bytes_of_states(sizes, num_windows, length=length, every=every))
    if every > 1:
        log.info("the states at one border of blocks in %d are stored, and no moments", every)
    with atomic(folder / TOKENS_FILE) as partial, open(partial, "wb") as file:
        np.save(file, tokens)
    with written_hidden_states(state_path(folder, 0), (*tokens.shape, sizes.hidden)) as embedded:
        skeleton.embed_into(torch.from_numpy(tokens).long(), embedded)
        digests = [digest(embedded)]
    begun = {"border_every": every, "digests": digests, "generator": _position(torch.Generator().manual_seed(0))}
    scratch.add(begun, [folder / TOKENS_FILE, state_path(folder, 0)])


class _Recording:
    """States that are being recorded. A unit of the scratch ends where a border is stored."""

    def __init__(
        self, skeleton: Skeleton, shape: tuple[int, int], *, loss: str, folder: Path, scratch: Scratch
    ) -> None:
        self.skeleton, self.loss, self.folder, self.scratch = skeleton, loss, folder, scratch
        self.every: int = scratch.units[0]["border_every"]
        self.stored = frozenset(stored_borders(skeleton.num_blocks, self.every))
        self.generator = torch.Generator()
        self.generator.set_state(torch.frombuffer(bytearray.fromhex(scratch.units[-1]["generator"]), dtype=torch.uint8))
        self.arguments = skeleton.block_arguments(shape[1])
        self.border = len(self._digests()) - 1
        self.states = read_hidden_states(state_path(folder, self.border))
        self._passed: list[str] = []
        self._files: list[Path] = []

    def pass_sublayer(self, s: int) -> None:
        """Go on to the border after sublayer s: write its state, where it is stored, and what is kept of the sublayer."""
        sublayer = Sublayer(self.skeleton.resident_block(s // 2), self.skeleton.family, HALVES[s % 2])
        path, is_stored, arguments = state_path(self.folder, s + 1), s + 1 in self.stored, self.arguments[s // 2]
        shape, windows = tuple(self.states.shape), slice(MOMENT_WINDOWS)
        written = (
            written_hidden_states(path, shape)
            if is_stored
            else nullcontext(torch.empty(shape, device=self.skeleton.device))
        )
        with written as outputs:
            run_sublayer(sublayer, self.states, arguments, out=outputs)
            if not all(outputs[rows].isfinite().all() for rows in batches(len(outputs))):
                where = self.skeleton.weights.folder
                raise ValueError(f"{where}: the full-precision model's state after sublayer {s} is not finite")
            self._passed.append(digest(outputs))
            if self.every > 1:
                kept = {"weights": token_weights(self.loss, outputs), "generator": self.generator.get_state()}
                self._write(kept_path(self.folder, s), kept)
            observed = observe(
                sublayer,
                self.states[windows],
                outputs[windows],
                arguments=arguments,
                loss=self.loss,
                generator=self.generator,
            )
        if self.every == 1:
            self._write(observed_path(self.folder, s), observed)
        self.states = read_hidden_states(path) if is_stored else outputs
        if is_stored:
            self.scratch.add({"digests": self._passed, "generator": _position(self.generator)}, [*self._files, path])
            self._passed, self._files = [], []

    @property
    def description(self) -> dict[str, Any]:
        """The index of states of which every border has been passed."""
        return {
            "loss": self.loss,
            "num_sublayers": 2 * self.skeleton.num_blocks,
            "shape": list(self.states.shape),
            "border_every": self.every,
            "borders": self._digests(),
            "files": self.scratch.files,
            "devices": self.scratch.devices,
        }

    def _digests(self) -> list[str]:
        return [digest for unit in self.scratch.units for digest in unit["digests"]]

    def _write(self, path: Path, tensors: dict[str, Tensor]) -> None:
        write_tensors(path, tensors)
        self._files.append(path)


def _position(generator: torch.Generator) -> str:
    """Where the generator of probes stands."""
    return generator.get_state().numpy().tobytes().hex()
