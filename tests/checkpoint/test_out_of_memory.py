"""Where a GPU's memory ends, every stage goes on with half the windows at once, to the same numbers but for rounding."""

import pytest
import torch
from models_for_tests import Workspace, perplexity_losses, read_checkpoint, recipe
from safetensors.torch import load_file
from torch.nn import functional as F

from altq.calibration import end_to_end, states, unit
from altq.calibration.bank import read_index
from altq.calibration.end_to_end import calibrate_end_to_end
from altq.calibration.fitting import Fitting
from altq.calibration.recording import record_states
from altq.checkpoint import rounding as rounding_module
from altq.evaluation import perplexity
from altq.experiment.end_to_end_recipe import EndToEndRecipe
from altq.experiment.policies import SearchOptions
from altq.experiment.rounding import RoundingOptions
from altq.experiment.setting import Setting
from altq.models.skeleton import Skeleton
from altq.selection.candidates import Candidates
from altq.selection.learned import search_model

SETTING = Setting.parse("W4A4K4V4")
STEPS = {"steps": 1, "unit": "block"}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return Workspace("llama_gqa", tmp_path_factory.mktemp("memory"))


@pytest.fixture
def hold(monkeypatch):
    """A function that lets attention run out of memory from so many windows on, and forgets what was halved before."""
    original = F.scaled_dot_product_attention
    # Whether a product is reduced may depend on its size, and so on the batch.
    monkeypatch.setattr("altq.runtime.precision._has_fast_bfloat16", lambda: False)

    def hold(most):
        def attention(query, *arguments, **options):
            if len(query) > most:
                raise torch.OutOfMemoryError(f"CUDA out of memory: {len(query)} windows")
            return original(query, *arguments, **options)

        for module in (states, unit, rounding_module, perplexity, end_to_end):
            monkeypatch.setattr(module.BATCH_SIZE, "is_halved", False)
        monkeypatch.setattr(F, "scaled_dot_product_attention", attention)

    return hold


def record(workspace, folder):
    record_states(workspace.model, workspace.tokens, loss="relative", folder=folder, fingerprint="test")
    return {path.name: load_file(path) for path in folder.glob("*.safetensors")}


def calibrate(workspace, folder):
    bank = workspace.bank(SETTING, "affine", folder=folder.name, **STEPS)
    entries = read_index(bank)["entries"]
    assert all(entry["loss"] <= entry["start_loss"] for entry in entries)
    # Adam's steps amplify rounding; tests/calibration/test_unit.py compares gradients.
    return {str(s): {"loss": torch.tensor(entry["start_loss"])} for s, entry in enumerate(entries)}


def search(workspace, folder):
    candidates = Candidates(
        ("affine", "rotation"), setting=SETTING, seed=0, recipe=recipe(**STEPS | {"unit": "sublayer"})
    )
    options = SearchOptions(steps=2, windows_per_step=2)
    traces = search_model(workspace.subject(), candidates, options=options, folder=folder, fingerprint="code")
    assert all(len(trace.loss) == len(trace.entropy) == 2 and len(trace.pi) == 3 for trace in traces)
    return {str(s): {"loss": torch.tensor(trace.loss[0])} for s, trace in enumerate(traces)}


def assemble(workspace, folder):
    rounding = RoundingOptions(weights="gptq", windows=4, block_size=16)
    made = read_checkpoint(workspace.checkpoint(SETTING, ["affine"] * 4, rounding, folder=folder.name))
    return {"checkpoint": {name: tensor for name, tensor in made.items() if tensor.is_floating_point()}}


def measure(workspace, folder):
    return {"losses": {"nll": torch.tensor(perplexity_losses(Skeleton(workspace.model), workspace.tokens))}}


def fit_end_to_end(workspace, folder):
    options = EndToEndRecipe(trained=["residual"], steps=2, windows_per_step=4, windows_in_memory=2, rotation_rate=0.1)
    fitting = Fitting.end_to_end(setting=SETTING, seed=0, recipe=options)
    calibrate_end_to_end(workspace.model, workspace.states, fitting, folder, fingerprint="code")
    return {"index": {"losses": torch.tensor(read_index(folder)["losses"])}}


STAGES = {record: 2, calibrate: 1, search: 1, assemble: 2, measure: 1, fit_end_to_end: 1}
"""The stages, with half of the windows that they take at once."""


@pytest.mark.parametrize("stage", STAGES)
def test_half_the_windows_fit(workspace, tmp_path, hold, caplog, stage):
    hold(10)
    if stage is assemble:
        workspace.bank(SETTING, "affine")  # which `assemble` finds made
    expected = stage(workspace, tmp_path / "all at once")
    hold(STAGES[stage])
    caplog.clear()
    found = stage(workspace, tmp_path / "halves")
    said = [message for message in caplog.messages if "half as many windows at once" in message]
    assert len(said) == 1 and "CUDA out of memory" in said[0]
    assert found.keys() == expected.keys()
    for name, tensors in expected.items():
        for part, tensor in tensors.items():
            scale = tensor.abs().max()
            torch.testing.assert_close(found[name][part] / scale, tensor / scale, rtol=0, atol=2e-2)


@pytest.mark.parametrize("stage", STAGES)
def test_where_half_do_not_fit_either_the_error_says_what_was_going_on(workspace, tmp_path, hold, stage):
    hold(10)
    if stage is assemble:
        workspace.bank(SETTING, "affine")
    hold(0)
    with pytest.raises(MemoryError, match=r"^[\w ]+: CUDA out of memory.*with half as many windows.*--gpu-memory"):
        stage(workspace, tmp_path / "none")
