"""Differentiable search: a softmax mixture of candidate kinds at each sublayer (Eq. 5-7, in their order).

Every candidate starts as its own calibration starts, then transforms, clipping factors and mixture are trained together
against the full-precision output: transforms at the recipe's rates, which fall as in calibration, alpha at its own.
Sublayers are independent, so that a search goes on where it was stopped. Only the mixture is kept: what is assembled
comes from the banks.
"""

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from altq.calibration.by_unit import start_unit
from altq.calibration.descent import Descent, DivergenceError, Optimisers, finite, make_optimisers
from altq.calibration.states import windows_of_step
from altq.calibration.subject import Subject
from altq.calibration.unit import Problem, Unit
from altq.experiment.kinds import sublayer_name
from altq.experiment.policies import SearchOptions
from altq.experiment.recipe import Recipe
from altq.experiment.windows import require_windows
from altq.models.typed_modules import TypedModuleList
from altq.runtime.files import read_json
from altq.runtime.looks import look
from altq.runtime.progress import progress
from altq.runtime.resume import fingerprint_of, read_unit, warn_of_mixture, write_unit
from altq.selection.candidates import Candidates
from altq.selection.scores import Scores

log = logging.getLogger(__name__)


class Mixture(nn.Module):
    """The sum of what every candidate adds to the residual stream, weighted by pi = softmax(alpha) (Eq. 5)."""

    def __init__(self, candidates: Sequence[Unit]) -> None:
        super().__init__()
        self.candidates = TypedModuleList(candidates)
        device = next(self.candidates.parameters()).device
        self.alpha = nn.Parameter(torch.zeros(len(candidates), device=device))

    def prepare(self) -> None:
        """Fold and quantize the weights of every candidate for the forward passes that follow."""
        for candidate in self.candidates:
            candidate.prepare()

    def forward(self, states: Tensor) -> Tensor:
        """[windows, length, hidden] -> the same shape."""
        return sum(
            share * candidate(states) for share, candidate in zip(self.alpha.softmax(0), self.candidates, strict=True)
        )

    def shares(self) -> list[float]:
        """pi as it is now, by candidate."""
        return self.alpha.detach().softmax(0).tolist()

    def entropy(self) -> Tensor:
        """H(pi) = -sum pi log pi, in nats."""
        logs = self.alpha.log_softmax(0)
        return -(logs.exp() * logs).sum()


def objective(reconstruction: Tensor, entropy: Tensor, *, reference: float, entropy_weight: float) -> Tensor:
    """Reconstruction error plus the weighted entropy of pi (Eq. 6).

    reference: the reconstruction error before the first step. The error is taken relative to it, so that the entropy's
    weight means the same at every sublayer and setting.
    """
    return reconstruction / max(reference, torch.finfo(reconstruction.dtype).tiny) + entropy_weight * entropy


def final_shares(
    traces: Sequence["Trace"], *, candidates: Candidates, model: str, provenance: Mapping[str, Any]
) -> Scores:
    """Scores of every kind at every sublayer: pi after the last step, of which the largest is chosen (Eq. 7).

    The choice is `altq.selection.scores.best_selection`, which other policies share.
    """
    values = tuple(dict(zip(candidates.kinds, trace.pi[-1], strict=True)) for trace in traces)
    return Scores(model=model, quantity="pi", lower_is_better=False, values=values, provenance=provenance)


@dataclass(frozen=True)
class Trace:
    """The curve of one search.

    pi: [steps + 1][kinds], before every step and at the end. loss: [steps], the reconstruction error. entropy: [steps],
    H(pi) in nats.
    """

    pi: list[list[float]] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    entropy: list[float] = field(default_factory=list)

    def cut(self, step: int) -> None:
        """Forget what came from a step on: it begins again."""
        for values in (self.pi, self.loss, self.entropy):
            del values[step:]


def search_sublayer(mixture: Mixture, problem: Problem, *, recipe: Recipe, options: SearchOptions, name: str) -> Trace:
    """Train a mixture whose candidates have started; its curve.

    A search that diverges (DivergenceError within) begins again with smaller learning rates, and ValueError names the
    sublayer where that does not help.
    """
    trace = Trace()

    def optimisers(reduction: float) -> Optimisers:
        alpha = torch.optim.AdamW([mixture.alpha], options.mixture_rate * reduction, weight_decay=0.0)
        return Optimisers(make_optimisers(mixture.candidates, recipe, reduction), [alpha])

    def objective_of_step(step: int) -> Tensor:
        trace.cut(step)
        mixture.prepare()
        windows = windows_of_step(step, len(problem.inputs), options.windows_per_step)
        reconstruction, entropy = problem.evaluate(mixture, windows), mixture.entropy()

        def keep(values: list[float]) -> None:
            trace.loss.append(values[0])
            trace.entropy.append(values[1])
            trace.pi.append(values[2:])

        look(torch.cat([reconstruction[None], entropy[None], mixture.alpha.softmax(0)]), keep)
        reference = trace.loss[0] if step else reconstruction.item()
        return objective(
            finite(reconstruction, step), entropy, reference=reference, entropy_weight=options.entropy_weight
        )

    def outcome() -> Trace:
        trace.pi.append(mixture.shares())
        if not all(map(math.isfinite, trace.pi[-1])):
            raise DivergenceError(f"the mixture became {trace.pi[-1]}")
        return trace

    descent = Descent(mixture, optimisers=optimisers, objective=objective_of_step, outcome=outcome)
    return descent.run(options.steps, name)[0]


def search_model(
    subject: Subject, candidates: Candidates, options: SearchOptions, folder: str | Path, *, fingerprint: str
) -> list[Trace]:
    """Search every sublayer: its curve, each also a file of `folder`, from which a run that was stopped goes on.

    fingerprint: of the code that searches and of the model. Where it, the candidates, the options or what is read of the
    states is another one, a sublayer is searched again. ValueError for windows that there are not.
    """
    for section in (candidates.recipe, options):
        require_windows(section, subject.states.num_windows)
    common = candidates.description | {"search": options.model_dump(), "fingerprint": fingerprint}
    traces = []
    for s in progress(range(subject.num_sublayers), f"searching at {candidates.setting}"):
        path = Path(folder) / f"sublayer_{s:03d}.json"
        states = subject.states.fingerprint_of([s])
        unit_fingerprint = fingerprint_of(common | {"sublayer": s, "states": states})
        unit = read_unit(path, unit_fingerprint)
        if unit is None:
            began = time.process_time()
            trace = _search_from_start(subject, candidates, options, sublayer=s)
            seconds, device = time.process_time() - began, subject.skeleton.device.type
            unit = {"trace": asdict(trace), "processor_seconds": seconds, "device": device}
            write_unit(path, unit_fingerprint, unit)
            shares = zip(candidates.kinds, trace.pi[-1], strict=True)
            log.info("%s: pi %s", sublayer_name(s), ", ".join(f"{kind} {pi:.3f}" for kind, pi in shares))
        traces.append(Trace(**unit["trace"]))
    warn_of_mixture(SearchRecord.of(folder).devices, str(folder))
    return traces


def _search_from_start(subject: Subject, candidates: Candidates, options: SearchOptions, *, sublayer: int) -> Trace:
    """Start the candidates of a sublayer and search it; they are in memory no longer than this takes."""
    mixture = Mixture([start_unit(subject, fitting, [sublayer]) for fitting in candidates.fittings.values()])
    problem, name = Problem.of(subject.borders, [sublayer]), sublayer_name(sublayer)
    return search_sublayer(mixture, problem, recipe=candidates.recipe, options=options, name=name)


def curve(kinds: Sequence[str], traces: Sequence[Trace]) -> str:
    """The curves of all sublayers as CSV: a row before each step, and one at the end with pi alone."""
    lines = [",".join(["sublayer", "step", "reconstruction_error", "entropy", *(f"pi_{kind}" for kind in kinds)])]
    for sublayer, trace in enumerate(traces):
        rows = zip_longest(trace.loss, trace.entropy, trace.pi, fillvalue="")
        for step, (loss, entropy, pi) in enumerate(rows):
            lines.append(",".join(map(str, [sublayer, step, loss, entropy, *pi])))
    return "\n".join(lines) + "\n"


class SearchRecord(NamedTuple):
    """Processor seconds of all sublayers of a finished search, whichever process searched them, and their devices."""

    processor_seconds: float
    devices: list[str]

    @classmethod
    def of(cls, folder: str | Path) -> "SearchRecord":
        """Read the files of the sublayers, in order."""
        units = [read_json(path) for path in sorted(Path(folder).glob("sublayer_*.json"))]
        return cls(math.fsum(unit["processor_seconds"] for unit in units), [unit["device"] for unit in units])
