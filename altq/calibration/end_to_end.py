"""Calibrating a bank end to end: rotations, and scalings where asked for, trained on the language model's own loss.

SpinQuant, OSTQuant and, without a step, QuaRot are recipes of it. A run that was killed goes on at the step where it
was, and its result is the same.
"""

import logging
import math
import time
from pathlib import Path
from pickle import UnpicklingError

import geoopt
import torch
from torch import Tensor

from altq.calibration.bank import entry_path, write_entry, write_index, write_residual
from altq.calibration.cayley_sgd import CayleySGD
from altq.calibration.fitting import Fitting
from altq.calibration.losses import cross_entropy, kl_top
from altq.calibration.states import States, spread, windows_of_step
from altq.calibration.subject import Subject
from altq.calibration.sublayer import module_key
from altq.calibration.whole_model import WholeModel
from altq.experiment.end_to_end_recipe import EndToEndRecipe
from altq.experiment.shape import Sizes
from altq.experiment.windows import require_windows
from altq.models.skeleton import Skeleton
from altq.quantizers.clipping import search_row_clip
from altq.runtime.batch_size import BatchSize
from altq.runtime.device import CPU, free_memory, traits_of
from altq.runtime.files import atomic
from altq.runtime.progress import progress
from altq.runtime.resume import Scratch, fingerprint_of
from altq.transforms.heads import HeadRotation
from altq.transforms.rotation import orthogonality_error, project_orthogonal

log = logging.getLogger(__name__)

BATCH_SIZE = BatchSize()
"""That of passes through the whole model."""

LARGEST_DRIFT = 1e-2
"""Rounding takes rotations off their manifold by far less; more than this is a fault that projecting would hide."""


def calibrate_end_to_end(
    model_folder: str | Path,
    states_folder: str | Path,
    fitting: Fitting[EndToEndRecipe],
    folder: str | Path,
    *,
    fingerprint: str,
    device: torch.device = CPU,
) -> None:
    """Fit rotations of the whole model and write them as a bank to `folder`; index.json is written last.

    Weights are held in bfloat16 on a GPU and in float32 otherwise. A stopped fit goes on where `fingerprint` (that of
    the code that calibrates and of the model), the fitting and the states are the same. ValueError where the loss is not
    finite or a rotation has left its manifold.
    """
    folder, recipe = Path(folder), fitting.recipe
    subject = Subject.open(model_folder, states_folder, dtype=traits_of(device).resident_weights, device=device)
    whole = WholeModel(subject, fitting, streamed=not _fits(subject.skeleton))
    inputs = {"code and model": fingerprint, "states": subject.states.fingerprint_of_output()}
    description = fitting.description
    description["fingerprint"] = fingerprint_of(description | inputs)
    with Scratch(folder / "training.scratch", description["fingerprint"], device.type) as scratch:
        training = _Training(whole, subject.states, recipe=recipe, scratch=scratch)
        progress_name = f"fitting end to end at {fitting.setting}"
        start_loss, losses = training.run(progress_name) if recipe.steps else (None, [])
        drift = _settle(whole)
        loss = training.evaluate() if recipe.steps else None
        if start_loss is not None and loss is not None:
            if not math.isfinite(loss):
                raise ValueError(f"the loss is {loss} after the last step; lower the recipe's rates")
            log.info("end to end at %s: loss %.4f -> %.4f", fitting.setting, start_loss, loss)
            if loss >= start_loss:
                log.warning("%d steps did not lower the loss on the windows it is measured on", recipe.steps)
        write_residual(folder, whole.rotation)
        record = {"fingerprint": description["fingerprint"], "device": device.type}
        _write_entries(whole, folder, record=record, search_clips=recipe.weight_clip)
        fit = {"start_loss": start_loss, "losses": losses, "loss": loss, "drift": drift, "devices": scratch.devices}
        write_index(folder, description | fit)


def _fits(skeleton: Skeleton) -> bool:
    """Whether the weights of all blocks leave half of the device's memory to the block that is at work."""
    if skeleton.device.type == "cpu":
        return True
    sizes = Sizes(skeleton.weights.config.shape, skeleton.num_blocks, str(skeleton.weights.folder))
    fits = sizes.num_blocks * sizes.block_weights * skeleton.dtype.itemsize <= free_memory(skeleton.device) / 2
    if not fits:
        log.info("the GPU does not hold all blocks: each takes its weights from main memory as it runs")
    return fits


class _Training:
    """The steps of one fit: units of `scratch`, after the loss before any; beside them lies all that the next needs."""

    def __init__(self, whole: WholeModel, states: States, *, recipe: EndToEndRecipe, scratch: Scratch) -> None:
        self.whole, self.states, self.recipe, self.scratch = whole, states, recipe, scratch
        require_windows(recipe, states.num_windows)
        self.tokens, self.last_state = states.tokens(), states.state(states.num_sublayers)
        rotations = [p for p in _rotations(whole) if p.requires_grad]
        scalings = [p for p in whole.parameters() if p.requires_grad and not isinstance(p, geoopt.ManifoldParameter)]
        make = {"cayley_sgd": CayleySGD, "riemannian_adam": geoopt.optim.RiemannianAdam}[recipe.optimiser]
        self.optimisers: list[tuple[torch.optim.Optimizer, float]] = []
        if rotations:
            self.optimisers.append((make(rotations, lr=recipe.rotation_rate), recipe.rotation_rate))
        if scalings:
            self.optimisers.append((torch.optim.Adam(scalings, lr=recipe.scaling_rate), recipe.scaling_rate))

    def run(self, description: str) -> tuple[float, list[float]]:
        """Take all steps: the loss before, as `evaluate` has it, and that of each step."""
        self._resume()
        if not self.scratch.units:
            start_loss = self.evaluate()
            if not math.isfinite(start_loss):
                raise ValueError(f"the loss is {start_loss} before any step; look for overflow in the model's states")
            self.scratch.add(start_loss)
        for step in progress(range(len(self.scratch.units) - 1, self.recipe.steps), description):
            began = time.monotonic()
            loss = self._step(step, windows_of_step(step, len(self.tokens), self.recipe.windows_per_step))
            self._save(step + 1, loss)
            seconds = time.monotonic() - began
            log.info("step %d of %d: loss %.4f in %.1f s", step + 1, self.recipe.steps, loss, seconds)
        start_loss, *losses = self.scratch.units
        return start_loss, losses

    @torch.no_grad()
    def evaluate(self) -> float:
        """The loss on as many windows as a step has, spread evenly over all."""
        windows = spread(len(self.tokens), self.recipe.windows_per_step)
        return BATCH_SIZE.fit(lambda: self._loss(windows, with_gradients=False), "the loss")

    def _step(self, step: int, windows: Tensor) -> float:
        progress_made = step / self.recipe.steps
        for optimiser, rate in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate * (1 + math.cos(math.pi * progress_made)) / 2

        def differentiate() -> float:
            for optimiser, _ in self.optimisers:
                optimiser.zero_grad(set_to_none=True)
            return self._loss(windows, with_gradients=True)

        total = BATCH_SIZE.fit(differentiate, f"step {step + 1}")
        if not math.isfinite(total):
            raise ValueError(f"the loss is {total} at step {step + 1}; lower the recipe's rates")
        for optimiser, _ in self.optimisers:
            optimiser.step()
        return total

    def _loss(self, windows: Tensor, *, with_gradients: bool) -> float:
        """The mean loss a token over some windows; its gradients are added to those of the parameters."""
        # On the device, so that nothing waits for a piece.
        total = torch.zeros((), dtype=torch.float64, device=self.whole.rotation.device)
        for rows_of_part in BATCH_SIZE.slices(len(windows), self.recipe.windows_in_memory):
            part = windows[rows_of_part]
            inputs, targets = self._head_inputs(part)
            rows = inputs.detach().requires_grad_(with_gradients)
            count = traits_of(rows.device).tokens_of_logits
            for piece, piece_targets in zip(rows.split(count), targets.split(count), strict=True):
                loss = self._loss_sum(piece, piece_targets) / len(rows) * (len(part) / len(windows))
                if with_gradients:
                    loss.backward()
                total += loss.detach()
            if with_gradients:
                inputs.backward(rows.grad)
                self.whole.release()
        return total.item()

    def _head_inputs(self, windows: Tensor) -> tuple[Tensor, Tensor]:
        """Head inputs [tokens, hidden] and their targets: next tokens [tokens], or the full-precision head inputs."""
        inputs = self.whole(self.tokens[windows])
        if self.recipe.loss == "cross_entropy":
            return inputs[:, :-1].flatten(0, 1), self.tokens[windows, 1:].flatten().to(inputs.device)
        return inputs.flatten(0, 1), self.whole.normed(self.last_state[windows].to(inputs)).flatten(0, 1)

    def _loss_sum(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """The loss summed over tokens, from head inputs [tokens, hidden]."""
        logits = self.whole.logits(inputs)
        if self.recipe.loss == "cross_entropy":
            return cross_entropy(logits, targets)
        return kl_top(logits, self.whole.logits(targets), self.recipe.top_k)

    def _save(self, finished: int, loss: float) -> None:
        """Keep what the step after the `finished` first ones needs, and the loss of the last of them."""
        parameters = dict(self.whole.named_parameters())
        are_finite = torch.stack([parameter.isfinite().all() for parameter in parameters.values()]).tolist()
        for name, is_finite in zip(parameters, are_finite, strict=True):
            if not is_finite:
                raise ValueError(f"{name} is not finite after step {finished}; lower the recipe's rates")
        content = {
            "parameters": {name: p.data for name, p in self.whole.named_parameters() if p.requires_grad},
            "optimisers": [optimiser.state_dict() for optimiser, _ in self.optimisers],
        }
        with atomic(self._path(finished)) as partial, open(partial, "wb") as file:
            torch.save(content, file)
        self.scratch.add(loss)
        self._path(finished - 1).unlink(missing_ok=True)

    def _path(self, finished: int) -> Path:
        return self.scratch.folder / f"training_{finished:06d}.pt"

    def _resume(self) -> None:
        """Put parameters and optimisers where the last finished step left them."""
        finished = len(self.scratch.units) - 1
        if finished < 1:
            return
        try:
            # Onto the CPU: optimisers move what belongs to a parameter to its device, and leave their counts there.
            saved = torch.load(self._path(finished), map_location="cpu")
        except (RuntimeError, OSError, EOFError, UnpicklingError, LookupError, ValueError) as error:
            log.warning("%s cannot be read (%s): the fit starts anew", self._path(finished), error)
            self.scratch.drop()
            return
        parameters = dict(self.whole.named_parameters())
        for name, tensor in saved["parameters"].items():
            parameters[name].data.copy_(tensor)
        for (optimiser, _), state in zip(self.optimisers, saved["optimisers"], strict=True):
            optimiser.load_state_dict(state)
            if isinstance(optimiser, geoopt.optim.RiemannianAdam):
                # torch's Adam, which it is derived from, makes float32 tensors of its counts on loading.
                for kept in optimiser.state.values():
                    kept["step"] = int(kept["step"])


@torch.no_grad()
def _settle(whole: WholeModel) -> float:
    """Project all rotations, which rounding has moved by max |R^T R - I|; ValueError where that is no rounding."""
    drifts = []
    for rotation in _rotations(whole):
        drifts.append(orthogonality_error(rotation))
        if not drifts[-1] <= LARGEST_DRIFT:  # a NaN, too
            raise ValueError(f"a rotation has left its manifold: |R^T R - I| = {drifts[-1]:.1e}; lower rotation_rate")
        project_orthogonal(rotation)
    return max(drifts)


def _rotations(whole: WholeModel) -> list[Tensor]:
    return [p for p in whole.parameters() if isinstance(p, geoopt.ManifoldParameter)]


@torch.no_grad()
def _write_entries(whole: WholeModel, folder: Path, *, record: dict[str, str], search_clips: bool) -> None:
    """Write every sublayer as it is now, its weights' clipping factors searched where that is asked for."""
    for s, quantized in enumerate(whole.sublayers):
        whole.rotate(s)
        quantized.quantizers = whole.quantizers
        for site, transform in quantized.transforms.items():
            if isinstance(transform, HeadRotation):
                quantized.transforms[site] = transform.as_affine()
        if search_clips and not whole.quantizers.weights.is_identity:
            for name, weight in quantized.folded_weights().items():
                clip = search_row_clip(weight.contiguous(), None, whole.quantizers.weights)
                quantized.weight_clip[module_key(name)].set(clip)
        write_entry(entry_path(folder, s), quantized, {"sublayer": s, **record})
        whole.release()
