"""The differentiable search (Eq. 5-7): its parts by hand, a sublayer where one kind is better, resume."""

import json
import math

import pytest
import torch
from models_for_tests import Workspace, recipe
from safetensors.torch import load_file, save_file
from stopped_for_tests import Stopped, stop_after
from torch import nn

import altq.selection.learned as module
from altq.calibration.recording import record_states
from altq.calibration.subject import Subject
from altq.calibration.unit import Problem
from altq.experiment.policies import SearchOptions
from altq.experiment.setting import Setting
from altq.selection.candidates import Candidates
from altq.selection.learned import (
    Mixture,
    SearchRecord,
    Trace,
    curve,
    final_shares,
    objective,
    search_model,
    search_sublayer,
)
from altq.selection.scores import Scores, best_selection

SETTING = Setting.parse("W3A3K3V3")


class Candidate(nn.Module):
    """Stands for a quantized unit: what it adds is a matrix product with an error that no training removes."""

    def __init__(self, matrix, error):
        super().__init__()
        self.transform = nn.Parameter(matrix.clone())
        self.error = error
        self.prepared = 0

    def prepare(self):
        self.prepared += 1

    def forward(self, states):
        return states @ self.transform + self.error


def made_up(errors, windows=4, seed=0):
    """(mixture, problem): candidates whose outputs are off by independent errors of these sizes."""
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(windows, 8, 16, generator=generator)
    matrix = torch.randn(16, 16, generator=generator) / 4
    candidates = [Candidate(matrix, size * torch.randn(8, 16, generator=generator)) for size in errors]
    return Mixture(candidates), Problem(states, states + states @ matrix, "mse")


def search(mixture, problem, name="a sublayer", **options):
    given = {"steps": 60, "windows_per_step": 2, "mixture_rate": 0.1, "entropy_weight": 0.01}
    options = SearchOptions(**given | options)
    return search_sublayer(mixture, problem, recipe=recipe(learning_rate=1e-4), options=options, name=name)


def test_a_mixture_is_the_weighted_sum_of_its_candidates():
    mixture, problem = made_up([1.0, 2.0])
    with torch.no_grad():
        mixture.alpha.copy_(torch.tensor([math.log(3.0), 0.0]))  # pi = 3/4, 1/4
    first, second = (candidate(problem.inputs) for candidate in mixture.candidates)
    torch.testing.assert_close(mixture(problem.inputs), 0.75 * first + 0.25 * second)
    expected = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert mixture.entropy().item() == pytest.approx(expected)


def test_the_objective_is_the_relative_error_plus_the_weighted_entropy():
    error, entropy = torch.tensor(3.0), torch.tensor(0.5)
    assert objective(error, entropy, reference=6.0, entropy_weight=0.1).item() == pytest.approx(0.55)
    # Nothing is lost before the first step: the error counts as it is, over the least number.
    assert objective(torch.zeros(()), entropy, reference=0.0, entropy_weight=0.1).item() == pytest.approx(0.05)


def test_the_shares_at_the_end_are_the_scores():
    candidates = Candidates(("affine", "rotation"), setting=SETTING, seed=0, recipe=recipe())
    traces = [Trace(pi=[[0.5, 0.5], [share, 1 - share]]) for share in (0.25, 0.75)]
    scores = final_shares(traces, candidates=candidates, model="m", provenance={})
    assert scores.values == ({"affine": 0.25, "rotation": 0.75}, {"affine": 0.75, "rotation": 0.25})
    assert best_selection("learned", scores).kinds == ("rotation", "affine")


def test_the_entropy_of_three_equal_candidates():
    mixture, _ = made_up([1.0, 1.0, 1.0])
    assert mixture.entropy().item() == pytest.approx(math.log(3))


@pytest.mark.parametrize("better", [0, 1])
def test_the_provably_better_kind_is_picked_and_entropy_falls(better):
    errors = [3.0, 3.0]
    errors[better] = 0.0
    trace = search(*made_up(errors))
    assert trace.pi[0] == [0.5, 0.5] and len(trace.pi) == 61 and len(trace.loss) == len(trace.entropy) == 60
    assert trace.pi[-1][better] > 0.95
    assert all(sum(pi) == pytest.approx(1) for pi in trace.pi)
    assert trace.entropy[0] == pytest.approx(math.log(2))
    assert trace.entropy[-1] < 0.3 * trace.entropy[0]
    assert trace.loss[-1] < 0.1 * trace.loss[0]
    values = {"affine": trace.pi[-1][0], "rotation": trace.pi[-1][1]}
    chosen = best_selection("learned", Scores("m", "pi", False, (values, values)))
    assert chosen.kinds == (["affine", "rotation"][better],) * 2


def with_an_outlier(weights):
    """One channel's inputs ten times the others', which identity rounds to zero; a rotation spreads it."""
    for name in weights:
        if name.endswith("layernorm.weight"):
            weights[name][3] *= 10
        elif any(part in name for part in ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")):
            weights[name][:, 3] /= 10


def with_equal_magnitudes(weights):
    """Inputs that are all 1 or -1, which identity rounds exactly; a rotation makes them unequal."""
    weights["model.embed_tokens.weight"].sign_()
    weights["model.layers.0.input_layernorm.weight"].fill_(1.0)


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize(("change", "better"), [(with_an_outlier, "rotation"), (with_equal_magnitudes, "identity")])
def test_on_a_real_sublayer_the_better_kind_is_picked(tmp_path, change, better, order):
    workspace = Workspace("llama_tied", tmp_path)
    weights = load_file(workspace.model / "model.safetensors")
    change(weights)
    save_file(weights, workspace.model / "model.safetensors", metadata={"format": "pt"})
    states, kinds = tmp_path / "changed", ["identity", "rotation"][:: 1 - 2 * order]
    record_states(workspace.model, workspace.tokens, loss="relative", folder=states, fingerprint="test")
    options = SearchOptions(steps=30, windows_per_step=2, mixture_rate=0.2)
    fitted, setting = recipe(scaling="none", start="hadamard"), Setting.parse("W16A3K16V16")
    attention, *_ = search_model(
        Subject.open(workspace.model, states),
        Candidates(tuple(kinds), setting=setting, seed=0, recipe=fitted),
        options=options,
        folder=tmp_path / "search",
        fingerprint="code",
    )
    assert attention.pi[-1][kinds.index(better)] > 0.6
    assert all(after < before for before, after in zip(attention.entropy, attention.entropy[1:5], strict=False))


def test_candidates_that_are_the_same_stay_a_tie_which_is_an_error():
    mixture, problem = made_up([1.0])
    twins = Mixture([mixture.candidates[0], Candidate(mixture.candidates[0].transform, mixture.candidates[0].error)])
    trace = search(twins, problem, steps=5)
    assert trace.pi[-1] == [0.5, 0.5]
    values = dict(zip(("affine", "rotation"), trace.pi[-1], strict=True))
    with pytest.raises(ValueError, match="cannot choose at sublayer 0"):
        best_selection("learned", Scores("m", "pi", False, (values, values)))


def test_the_entropys_weight_pushes_to_a_decision():
    free, pushed = (search(*made_up([1.0, 1.2]), entropy_weight=weight).entropy[-1] for weight in (0.0, 2.0))
    assert pushed < free


def test_transforms_and_mixture_are_trained_together():
    mixture, problem = made_up([0.0, 0.0])
    with torch.no_grad():
        for candidate in mixture.candidates:
            candidate.transform.mul_(1.5)
    before = [candidate.transform.detach().clone() for candidate in mixture.candidates]
    trace = search(mixture, problem, steps=40)
    assert trace.loss[-1] < trace.loss[0]
    assert all(not torch.equal(a, candidate.transform) for a, candidate in zip(before, mixture.candidates, strict=True))
    assert all(candidate.prepared == 40 for candidate in mixture.candidates)


def test_a_search_that_diverges_names_its_sublayer(caplog):
    mixture, problem = made_up([float("inf"), 1.0])
    with pytest.raises(ValueError, match=r"block 3 ffn: the loss is (nan|inf) at step 0, even at 0.01"):
        search(mixture, problem, "block 3 ffn")


def test_the_curve_is_kept():
    trace = search(*made_up([0.0, 1.0]), steps=2)
    lines = curve(["affine", "rotation"], [trace, trace]).splitlines()
    assert lines[0] == "sublayer,step,reconstruction_error,entropy,pi_affine,pi_rotation"
    assert len(lines) == 1 + 2 * 3
    first = lines[1].split(",")
    assert first[:2] == ["0", "0"] and float(first[2]) == trace.loss[0] and first[4:] == ["0.5", "0.5"]
    assert lines[3].startswith("0,2,,,") and lines[4].startswith("1,0,")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return Workspace("llama_gqa", tmp_path_factory.mktemp("search"))


def run(workspace, folder, code="code", seed=0, **options):
    options = SearchOptions(**{"steps": 2, "windows_per_step": 2} | options)
    candidates = Candidates(("affine", "rotation", "balance"), setting=SETTING, seed=seed, recipe=recipe())
    return search_model(workspace.subject(), candidates, options=options, folder=folder, fingerprint=code)


def traces_of(path):
    unit = json.loads(path.read_text())
    return unit["fingerprint"], unit["trace"]


def test_a_stopped_search_goes_on_and_ends_the_same(workspace, tmp_path, monkeypatch):
    expected = run(workspace, tmp_path / "whole")
    assert len(expected) == 4 and all(len(trace.pi[-1]) == 3 for trace in expected)
    searched = stop_after(monkeypatch, module, "search_sublayer", 2)
    with pytest.raises(Stopped):
        run(workspace, tmp_path / "parts")
    assert [each.kwargs["name"] for each in searched] == ["block 0 attention", "block 0 ffn"]
    assert run(workspace, tmp_path / "parts") == expected
    whole, parts = ({p.name: traces_of(p) for p in (tmp_path / n).iterdir()} for n in ("whole", "parts"))
    assert whole == parts and len(whole) == 4


def test_the_time_of_a_search_is_that_of_all_its_processes(workspace, tmp_path):
    run(workspace, tmp_path)
    spent = SearchRecord.of(tmp_path).processor_seconds
    assert spent > 0
    run(workspace, tmp_path)  # finds all of it done
    assert SearchRecord.of(tmp_path).processor_seconds == spent


@pytest.mark.parametrize("change", [{"code": "other"}, {"seed": 1}, {"entropy_weight": 0.5}])
def test_what_was_searched_otherwise_is_searched_again(workspace, tmp_path, change):
    run(workspace, tmp_path)
    before = json.loads((tmp_path / "sublayer_000.json").read_text())["fingerprint"]
    run(workspace, tmp_path, **change)
    assert json.loads((tmp_path / "sublayer_000.json").read_text())["fingerprint"] != before
