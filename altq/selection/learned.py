"""Differentiable search: a softmax mixture of candidate kinds at each sublayer (Eq. 5-7).

Every candidate starts as its own calibration starts, then transforms, clipping factors and mixture are trained together
against the full-precision output: transforms at the recipe's rates, which fall as in calibration, alpha at its own.
Sublayers are independent, so that a search goes on where it was stopped. Only the mixture is kept: what is assembled
comes from the banks.
"""

import copy
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path

import torch
from torch import Tensor, nn

from altq.calibration.by_unit import start_unit
from altq.calibration.fit import RATE_REDUCTIONS, make_optimisers
from altq.calibration.states import States, windows_of_step
from altq.calibration.unit import Problem, Unit
from altq.experiment.kinds import sublayer_name
from altq.experiment.policies import SearchOptions
from altq.experiment.recipe import Recipe
from altq.experiment.setting import Setting
from altq.experiment.windows import require_windows
from altq.models.skeleton import Skeleton
from altq.runtime.files import read_json
from altq.runtime.progress import progress
from altq.runtime.resume import fingerprint_of, read_unit, write_unit

log = logging.getLogger(__name__)


class Mixture(nn.Module):
    """The sum of what every candidate adds to the residual stream, weighted by pi = softmax(alpha) (Eq. 5)."""

    def __init__(self, candidates: Sequence[Unit]) -> None:
        super().__init__()
        self.candidates = nn.ModuleList(candidates)
        self.alpha = nn.Parameter(torch.zeros(len(candidates)))

    def prepare(self) -> None:
        """Fold and quantize the weights of every candidate for the forward passes that follow."""
        for candidate in self.candidates:
            candidate.prepare()

    def forward(self, states: Tensor) -> Tensor:
        """[windows, length, hidden] -> the same."""
        return sum(
            share * candidate(states) for share, candidate in zip(self.alpha.softmax(0), self.candidates, strict=True)
        )

    def entropy(self) -> Tensor:
        """H(pi) = -sum pi log pi, in nats."""
        logs = self.alpha.log_softmax(0)
        return -(logs.exp() * logs).sum()


@dataclass(frozen=True)
class Trace:
    """pi [steps + 1][kinds] before every step and at the end; loss and entropy [steps]: reconstruction, H(pi)."""

    pi: list[list[float]]
    loss: list[float]
    entropy: list[float]


def search_sublayer(mixture: Mixture, problem: Problem, recipe: Recipe, options: SearchOptions, name: str) -> Trace:
    """Train a mixture whose candidates have started; its curve.

    The reconstruction error is taken relative to what it is before the first step, so that the entropy's weight means
    the same at every sublayer and setting. A search that diverges begins again with smaller learning rates, and
    ValueError names the sublayer where that does not help.
    """
    start = copy.deepcopy(mixture.state_dict())
    for reduction in RATE_REDUCTIONS:
        mixture.load_state_dict(start)
        trace, wrong = _train(mixture, problem, recipe, options, reduction)
        if wrong is None:
            return trace
        log.warning("%s: %s with %g of the learning rate; back to the start", name, wrong, reduction)
    raise ValueError(f"{name}: {wrong}, even at {RATE_REDUCTIONS[-1]} of the learning rate")


def _train(
    mixture: Mixture, problem: Problem, recipe: Recipe, options: SearchOptions, reduction: float
) -> tuple[Trace, str | None]:
    """Take the search's steps; the curve, and what went wrong, or None."""
    trace = Trace([], [], [])
    optimisers = make_optimisers(mixture.candidates, recipe, reduction)
    schedules = [torch.optim.lr_scheduler.CosineAnnealingLR(o, options.steps) for o in optimisers]
    optimisers.append(torch.optim.AdamW([mixture.alpha], options.mixture_rate * reduction, weight_decay=0.0))
    for step in range(options.steps):
        try:
            mixture.prepare()
        except torch.linalg.LinAlgError as error:
            return trace, f"a factor is singular at step {step} ({error})"
        reconstruction = problem.evaluate(mixture, windows_of_step(step, len(problem.inputs), options.windows_per_step))
        entropy = mixture.entropy()
        trace.pi.append(mixture.alpha.detach().softmax(0).tolist())
        trace.loss.append(reconstruction.item())
        trace.entropy.append(entropy.item())
        if not math.isfinite(trace.loss[-1]):
            return trace, f"the loss is {trace.loss[-1]} at step {step}"
        for optimiser in optimisers:
            optimiser.zero_grad(set_to_none=True)
        reference = max(trace.loss[0], torch.finfo(reconstruction.dtype).tiny)
        (reconstruction / reference + options.entropy_weight * entropy).backward()
        for stepped in (*optimisers, *schedules):
            stepped.step()
    trace.pi.append(mixture.alpha.detach().softmax(0).tolist())
    if not all(map(math.isfinite, trace.pi[-1])):
        return trace, f"the mixture became {trace.pi[-1]}"
    return trace, None


def search_model(
    model: str | Path,
    states: str | Path,
    setting: Setting,
    seed: int,
    candidates: Sequence[str],
    recipe: Recipe,
    options: SearchOptions,
    folder: str | Path,
    fingerprint: str,
) -> list[Trace]:
    """The curve of every sublayer, each also a file of `folder`, from which a run that was stopped goes on.

    fingerprint: of the code that searches and of the model. What was searched otherwise (with another one, other
    options or states) is searched again.
    """
    skeleton, known = Skeleton(model), States(states)
    for asking in (recipe, options):
        require_windows(asking, known.num_windows)
    arguments = skeleton.block_arguments(known.length)
    common = {"setting": str(setting), "seed": seed, "kinds": list(candidates), "fingerprint": fingerprint}
    common |= {"recipe": recipe.model_dump(mode="json"), "search": options.model_dump()}

    def search(s: int) -> Trace:
        problem = Problem(known.state(s), known.state(s + 1), known.loss)
        started = [
            start_unit(skeleton, known, [s], problem, arguments[s // 2], setting, kind, seed, recipe)
            for kind in candidates
        ]
        return search_sublayer(Mixture(started), problem, recipe, options, sublayer_name(s))

    traces = []
    for s in progress(range(2 * skeleton.num_blocks), f"searching at {setting}"):
        path = Path(folder) / f"sublayer_{s:03d}.json"
        of_sublayer = fingerprint_of(common | {"sublayer": s, "states": known.fingerprint_of([s])})
        unit = read_unit(path, of_sublayer)
        if unit is None:
            began = time.process_time()
            trace = search(s)
            unit = {"trace": asdict(trace), "processor_seconds": time.process_time() - began}
            write_unit(path, of_sublayer, unit)
            chosen = dict(zip(candidates, trace.pi[-1], strict=True))
            log.info("%s: pi %s", sublayer_name(s), ", ".join(f"{kind} {pi:.3f}" for kind, pi in chosen.items()))
        traces.append(Trace(**unit["trace"]))
    return traces


def curve(candidates: Sequence[str], traces: Sequence[Trace]) -> str:
    """The curves of all sublayers as CSV: a row before each step, and one at the end with pi alone."""
    lines = [",".join(["sublayer", "step", "reconstruction_error", "entropy", *(f"pi_{kind}" for kind in candidates)])]
    for sublayer, trace in enumerate(traces):
        rows = zip_longest(trace.loss, trace.entropy, trace.pi, fillvalue="")
        for step, (loss, entropy, pi) in enumerate(rows):
            lines.append(",".join(map(str, [sublayer, step, loss, entropy, *pi])))
    return "\n".join(lines) + "\n"


def searched_seconds(folder: str | Path) -> float:
    """Processor seconds of all sublayers of a finished search, whichever process searched them."""
    paths = Path(folder).glob("sublayer_*.json")
    return math.fsum(read_json(path)["processor_seconds"] for path in paths)
