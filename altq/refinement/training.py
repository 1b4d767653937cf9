"""The steps of a refinement: Adam down the KL divergence of full logits, the best step kept by held-out windows.

Every step is a unit of a scratch folder, beside which lies all that the next one needs: a run that was stopped goes on
there, and its result is the same.
"""

import logging
import math
import time
from contextlib import nullcontext
from pathlib import Path
from pickle import UnpicklingError
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from altq.calibration.states import windows_of_step
from altq.experiment.refinement import RefinementRecipe
from altq.refinement.student import Student
from altq.refinement.teacher import Teacher
from altq.runtime.device import traits_of
from altq.runtime.files import atomic
from altq.runtime.precision import reduced_products
from altq.runtime.progress import progress
from altq.runtime.resume import Scratch

log = logging.getLogger(__name__)

TOKENS_IN_MEMORY = 2048
"""Windows of so many tokens together, and one at least, pass through the model at a time; gradients of a step add up."""


class Judgement(NamedTuple):
    """The held-out loss after so many steps."""

    steps: int
    loss: float


class Training:
    """Training of a student towards a teacher, whose states are of the windows of `tokens`, held-out ones last.

    tokens: [windows, length]. num_held_out: windows at the end that no step is taken on. judgements: those that were
    made, the first before any step. losses: the mean KL divergence a token of each step, before it.
    """

    def __init__(
        self,
        student: Student,
        teacher: Teacher,
        *,
        tokens: Tensor,
        num_held_out: int,
        recipe: RefinementRecipe,
        scratch: Scratch,
    ) -> None:
        self.student, self.teacher, self.tokens, self.recipe = student, teacher, tokens, recipe
        self.scratch = scratch
        self.num_windows = len(tokens) - num_held_out
        self.losses: list[float] = []
        self.judgements: list[Judgement] = []
        self.diverged = False
        self._best = student.trained.copy()
        self._optimiser = torch.optim.Adam(student.trained.logs.values(), lr=recipe.rate, betas=recipe.betas)

    def run(self) -> Judgement:
        """Take the steps, and put the student where the held-out loss was lowest: the judgement there.

        A step whose loss or outcome is not finite is the last, and taken back. ValueError where the loss before any step
        is not finite.
        """
        steps = self.recipe.steps
        self._resume()
        if not self.judgements:
            self._judge(0)
            if not math.isfinite(self.judgements[0].loss):
                raise ValueError(
                    f"the loss is {self.judgements[0].loss} before any step: the checkpoint's outputs overflow"
                )
            self._save()
        for step in progress(range(len(self.losses), steps), "refining"):
            if self.diverged:
                break
            began = time.monotonic()
            self._step(step)
            seconds = time.monotonic() - began
            if not self.diverged:
                log.info("step %d of %d: loss %.4f in %.1f s", step + 1, steps, self.losses[-1], seconds)
                if (step + 1) % self.recipe.judged_every == 0 or step + 1 == steps:
                    self._judge(step + 1)
            self._save()
        self.student.trained.restore(self._best)
        best = min(self.judgements, key=lambda judgement: judgement.loss)
        self._report(best)
        return best

    def _report(self, best: Judgement) -> None:
        start, steps = self.judgements[0].loss, len(self.losses)
        if self.diverged:
            log.warning("diverged at step %d; what came after step %d is taken back; lower the rate", steps, best.steps)
        elif best.steps == 0:
            log.warning(
                "no step lowered the held-out loss of %.4f: the checkpoint stays as it is; lower the rate", start
            )
        elif best.steps < steps:
            log.info("the held-out loss was lowest after step %d of %d, which is kept", best.steps, steps)
        log.info("held-out loss %.4f -> %.4f", start, best.loss)

    def _step(self, step: int) -> None:
        """Take a step, or find that the loss or the outcome cannot be used."""
        windows = windows_of_step(step, self.num_windows, self.recipe.windows_per_step)
        self._optimiser.zero_grad(set_to_none=True)
        for group in self._optimiser.param_groups:
            group["lr"] = self.recipe.rate * (1 + math.cos(math.pi * step / self.recipe.steps)) / 2
        loss = self.loss(windows, with_gradients=True)
        if math.isfinite(loss):
            self._optimiser.step()
        self.diverged = not (math.isfinite(loss) and self.student.trained.is_finite())
        self.losses.append(loss)

    def _judge(self, steps: int) -> None:
        with torch.no_grad():
            loss = self.loss(torch.arange(self.num_windows, len(self.tokens)), with_gradients=False)
        if steps == 0 or loss < min(judgement.loss for judgement in self.judgements):
            self._best = self.student.trained.copy()
        if math.isfinite(loss) or steps == 0:
            self.judgements.append(Judgement(steps, loss))
            log.info("held-out loss after %d steps: %.4f", steps, loss)
        else:
            self.diverged = True

    def loss(self, windows: Tensor, *, with_gradients: bool) -> float:
        """The mean KL divergence a token over the windows of these indices, in nats.

        Gradients are added to those of the student's logarithms. They are taken in reduced precision, where the
        processor has it; the loss of held-out windows is not.
        """
        length, total = self.tokens.shape[1], 0.0
        num_tokens = len(windows) * length
        for part in windows.split(max(1, TOKENS_IN_MEMORY // length)):
            hidden = self.student(self.tokens[part]).flatten(0, 1)
            targets, count = self.teacher.head_inputs(part).flatten(0, 1), traits_of(hidden.device).tokens_of_logits
            rows = hidden.detach().requires_grad_(with_gradients)
            with reduced_products() if with_gradients else nullcontext():
                for piece, target in zip(rows.split(count), targets.split(count), strict=True):
                    loss = kl_divergence(self.student.logits(piece), self.teacher.logits(target)) / num_tokens
                    if with_gradients:
                        loss.backward()
                    total += loss.item()
            if with_gradients:
                hidden.backward(rows.grad)
        return total

    def _save(self) -> None:
        """Keep what the next step needs; a unit of the scratch is a step, the first what was before any."""
        finished = len(self.scratch.units)
        content = {
            "losses": self.losses,
            "judgements": [tuple(judgement) for judgement in self.judgements],
            "diverged": self.diverged,
            "logs": self.student.trained.copy(),
            "best": self._best,
            "optimiser": self._optimiser.state_dict(),
        }
        with atomic(self._path(finished)) as partial, open(partial, "wb") as file:
            torch.save(content, file)
        self.scratch.add({"losses": len(self.losses)})
        self._path(finished - 1).unlink(missing_ok=True)

    def _path(self, unit: int) -> Path:
        return self.scratch.folder / f"training_{unit:06d}.pt"

    def _resume(self) -> None:
        """Put all where the last finished step left it; where that cannot be read, training begins anew."""
        if not self.scratch.units:
            return
        path = self._path(len(self.scratch.units) - 1)
        try:
            # Onto the CPU: an optimiser moves what belongs to a parameter to its device, and leaves its counts there.
            saved = torch.load(path, map_location="cpu")
            judgements = [Judgement(*pair) for pair in saved["judgements"]]
            self.student.trained.restore(saved["logs"])
            self._optimiser.load_state_dict(saved["optimiser"])
        except (RuntimeError, OSError, EOFError, UnpicklingError, LookupError, ValueError, TypeError) as error:
            log.warning("%s cannot be read (%s): training begins anew", path, error)
            self.scratch.drop()
            return
        self.losses, self.judgements, self.diverged = saved["losses"], judgements, saved["diverged"]
        self._best = saved["best"]


def kl_divergence(logits: Tensor, full: Tensor) -> Tensor:
    """sum p log(p / q) over the vocabulary, summed over tokens: logits and full [tokens, vocabulary].

    p and q are the probabilities that the full-precision and the quantized model give (Hinton et al., arXiv 1503.02531,
    at temperature 1).
    """
    return F.kl_div(logits.log_softmax(-1), full.log_softmax(-1), reduction="sum", log_target=True)
