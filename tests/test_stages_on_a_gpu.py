"""Every numeric stage on a pretend GPU gives the CPU's bytes, runs nothing that has no CUDA kernel, and seldom waits."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from models_for_tests import make_tokens, recipe, save_tiny_model, write_selection
from pretend_gpu_for_tests import PretendGPU, is_on_gpu, without_cuda_kernel
from safetensors.torch import load_file

from altq.calibration.by_unit import calibrate_bank, start_unit
from altq.calibration.end_to_end import calibrate_end_to_end
from altq.calibration.fit import descent_of
from altq.calibration.fitting import Fitting
from altq.calibration.recording import record_states
from altq.calibration.subject import Subject
from altq.calibration.unit import Problem
from altq.checkpoint.assembly import assemble
from altq.checkpoint.quantized_model import load_model, open_model
from altq.checkpoint.scheme import Scheme
from altq.evaluation.likelihood import Request, plan_batches, score_batch
from altq.evaluation.perplexity import window_losses
from altq.experiment.baselines import OSTQUANT, SPINQUANT
from altq.experiment.policies import SearchOptions
from altq.experiment.refinement import RefinementRecipe
from altq.experiment.rounding import RoundingOptions
from altq.experiment.setting import Setting
from altq.models.skeleton import Skeleton
from altq.refinement.refine import refine
from altq.runtime import device as device_module
from altq.runtime.resume import Scratch
from altq.selection.candidates import Candidates
from altq.selection.learned import Mixture, search_model, search_sublayer
from altq.selection.oracle import reconstruction_errors
from altq.selection.predicted import predict_model
from altq.selection.selection import Selection

SETTING = Setting.parse("W3A3K2V2")
ALL_STEPS = {"steps": 2, "clip_search": True}
BANKS = {
    "affine": ("affine", recipe(unit="block", **ALL_STEPS)),
    "rotation": ("rotation", recipe(structure="full", **ALL_STEPS)),
    "balance": ("balance", recipe(clip_search=True)),
    "smooth": ("scaling", recipe(scaling="smooth", other_sites="scaling")),
    "random": ("affine", recipe(start="random", scaling="ones")),
    "hadamard": ("hadamard", recipe(scaling="none")),
}
FEW = {"steps": 2, "windows_per_step": 2}
END_TO_END = {"spinquant": SPINQUANT.model_copy(update=FEW), "ostquant": OSTQUANT.model_copy(update=FEW)}


def run_stages(model, tokens, folder, device):
    """All numeric stages of a model into a folder; what they return besides."""
    states, seen = folder / "states", {}
    record_states(model, tokens, loss="relative", folder=states, fingerprint="test", device=device)
    subject = Subject.open(model, states, device=device)
    for name, (kind, options) in BANKS.items():
        fitting = Fitting(SETTING, kind=kind, seed=0, recipe=options)
        calibrate_bank(subject, fitting, folder / name, fingerprint="test")
    for name, options in END_TO_END.items():
        fitting = Fitting.end_to_end(setting=SETTING, seed=0, recipe=options)
        calibrate_end_to_end(model, states, fitting, folder / name, fingerprint="test", device=device)
    candidates = Candidates(("affine", "rotation"), setting=SETTING, seed=0, recipe=recipe())
    search = SearchOptions(steps=2, windows_per_step=2)
    seen["search"] = search_model(subject, candidates, options=search, folder=folder / "search", fingerprint="test")
    seen["predicted"] = predict_model(subject, candidates)
    banks = {name: folder / name for name in ("affine", "rotation")}
    seen["oracle"] = reconstruction_errors(model, tokens, banks=banks, setting=SETTING, loss="relative", device=device)
    for name, kinds in (("mixed", ["affine", "rotation", "balance", "affine"]), ("spinquant", ["identity"] * 4)):
        selection = Selection.read(write_selection(kinds, folder / f"{name}.json"))
        used = {kind: folder / kind for kind in set(kinds) - {"identity"}} or {"identity": folder / name}
        scheme = Scheme(selection, setting=SETTING, rounding=RoundingOptions(windows=4), banks=used)
        assemble(model, states, scheme, folder / f"{name}-checkpoint", fingerprint="test", device=device)
    windows = {"tokens": tokens, "held_out": make_tokens(windows=2, length=tokens.shape[1], seed=1)}
    options = RefinementRecipe(steps=2, windows_per_step=2, judged_every=1)
    what = {"recipe": options, "method": "mine_refined", "folder": folder / "refined-checkpoint", "device": device}
    seen["refined"] = refine(model, folder / "mixed-checkpoint", **windows, **what, fingerprint="test")
    del seen["refined"]["devices"]
    requests = [Request(n // 2, [1, 2, 3 + n // 2], [4 + n, 5]) for n in range(6)]
    for name in ("mixed-checkpoint", "spinquant-checkpoint", "full"):
        evaluated = model if name == "full" else folder / name
        seen[f"perplexity {name}"] = window_losses(open_model(evaluated, device), tokens, Scratch(folder / "s", name))
        loaded = load_model(evaluated, device)
        seen[f"likelihood {name}"] = [score_batch(loaded, batch) for batch in plan_batches(requests, 9)]
        with torch.inference_mode():
            start = torch.tensor([[1, 2, 3]], device=device)
            options = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 1, "attention_mask": start * 0 + 1}
            seen[f"text {name}"] = loaded.generate(start, **options).tolist()
    return seen


def numbers_of(folder):
    """All tensors and arrays below a folder, and what its indexes hold but for the device, by their names."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.suffix == ".safetensors":
            found |= {f"{name} {key}": tensor.numpy().tobytes() for key, tensor in load_file(path).items()}
        elif path.suffix == ".npy":
            found[name] = path.read_bytes()
        elif path.suffix == ".json":
            found[name] = without_devices(json.loads(path.read_text()))
    return found


def without_devices(content):
    if isinstance(content, dict):
        left_out = ("device", "devices", "processor_seconds", "files")
        return {key: without_devices(value) for key, value in content.items() if key not in left_out}
    return [without_devices(part) for part in content] if isinstance(content, list) else content


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_model("llama_gqa", tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def both(model, tmp_path_factory):
    """The stages on the CPU and on a pretend GPU that computes in the same precision."""
    folders = {kind: tmp_path_factory.mktemp(kind) for kind in ("cpu", "cuda")}
    seen = {"cpu": run_stages(model, make_tokens(), folders["cpu"], torch.device("cpu"))}
    with pytest.MonkeyPatch.context() as patch, PretendGPU() as gpu:
        patch.setattr(device_module, "ON_GPU", device_module.ON_CPU)
        seen["cuda"] = run_stages(model, make_tokens(), folders["cuda"], torch.device("cuda"))
    return SimpleNamespace(folders=folders, seen=seen, gpu=gpu)


def test_every_stage_gives_the_bytes_of_the_cpu(both):
    on_cpu, on_gpu = (numbers_of(folder) for folder in both.folders.values())
    assert len(on_cpu) > 300 and on_cpu.keys() == on_gpu.keys()
    assert [name for name in on_cpu if on_cpu[name] != on_gpu[name]] == []
    assert both.seen["cpu"] == both.seen["cuda"]


def test_every_stage_runs_on_the_gpu(both):
    assert {func._schema.name for func in both.gpu.operations} >= {"aten::mm", "aten::bmm", "aten::linalg_cholesky_ex"}
    assert sum(both.gpu.operations.values()) > 20_000


def test_no_operation_lacks_a_cuda_kernel(both):
    # Attention is one operation, for which torch chooses a kernel by where the tensors really are.
    lacking = [name for name in without_cuda_kernel(both.gpu.operations) if "flash_attention_for_cpu" not in name]
    assert lacking == []
    # The declarations do tell.
    attention, product = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default, torch.ops.aten.mm.default
    assert without_cuda_kernel([attention, product]) == ["_scaled_dot_product_flash_attention_for_cpu"]


def test_indexes_say_which_device_made_what(both):
    for kind, folder in both.folders.items():
        entries = json.loads((folder / "affine" / "index.json").read_text())["entries"]
        assert [entry["device"] for entry in entries] == [kind] * 4
        for path in ("states/states.json", "spinquant/index.json", "mixed-checkpoint/quantization.json"):
            assert json.loads((folder / path).read_text())["devices"] == [kind]


def test_a_bank_that_another_device_finishes_says_so(model, both, tmp_path, caplog):
    fitting = Fitting(SETTING, kind="rotation", seed=0, recipe=recipe())
    folder, states = tmp_path / "bank", both.folders["cpu"] / "states"
    calibrate_bank(Subject.open(model, states), fitting, folder, fingerprint="test")
    for s in (1, 3):
        (folder / f"sublayer_{s:03d}.safetensors").unlink()
    with PretendGPU():
        subject = Subject.open(model, states, device=torch.device("cuda"))
        calibrate_bank(subject, fitting, folder, fingerprint="test")
    entries = json.loads((folder / "index.json").read_text())["entries"]
    assert [entry["device"] for entry in entries] == ["cpu", "cuda", "cpu", "cuda"]
    assert "units are made on different devices (2 on cpu, 2 on cuda)" in caplog.text


def test_the_pretend_gpu_refuses_what_a_gpu_refuses(model):
    with PretendGPU():
        skeleton = Skeleton(model, device=torch.device("cuda"))
        weight = skeleton.model.get_input_embeddings().weight
        assert is_on_gpu(weight) and weight.device.type == "cuda" and weight.is_cuda
        with pytest.raises(RuntimeError, match="same device"):
            weight @ torch.ones(36, 2)
        with pytest.raises(TypeError, match="numpy"):
            weight.numpy()
        with pytest.raises(RuntimeError, match="generator"):
            torch.randn(3, device="cuda", generator=torch.Generator())
        assert (weight.cpu() @ torch.ones(36, 2)).device.type == "cpu"


@pytest.mark.parametrize(("kind", "options"), [("affine", {"unit": "block"}), ("rotation", {"structure": "full"})])
def test_a_step_waits_once_and_copies_the_indices_of_its_windows_alone(model, both, kind, options):
    fitting = Fitting(SETTING, kind=kind, seed=0, recipe=recipe(steps=4, **options))
    members = range(2 if fitting.recipe.unit == "block" else 1)
    with PretendGPU() as gpu:
        subject = Subject.open(model, both.folders["cpu"] / "states", device=torch.device("cuda"))
        unit, problem = start_unit(subject, fitting, members), Problem.of(subject.borders, members)
        descent = descent_of(unit, problem, fitting.recipe)
        descent.take_steps(1)
        gpu.waits.clear()
        gpu.copied.clear()
        descent.take_steps(4)
    assert {place.partition(":")[0] for place, _ in gpu.waits} == {"looks.py"} and sum(gpu.waits.values()) == 4
    assert sum(gpu.copied.values()) == 4 * fitting.recipe.windows_per_step * torch.int64.itemsize


def test_a_step_of_the_search_waits_once_and_copies_the_indices_of_its_windows_alone(model, both):
    candidates = Candidates(("affine", "rotation"), setting=SETTING, seed=0, recipe=recipe())
    with PretendGPU() as gpu:
        subject = Subject.open(model, both.folders["cpu"] / "states", device=torch.device("cuda"))
        mixture = Mixture([start_unit(subject, fitting, [1]) for fitting in candidates.fittings.values()])
        problem, counts = Problem.of(subject.borders, [1]), []
        for steps in (2, 6):
            gpu.waits.clear()
            gpu.copied.clear()
            options = SearchOptions(steps=steps, windows_per_step=2)
            search_sublayer(mixture, problem, recipe=recipe(), options=options, name="one")
            counts.append(sum(gpu.waits.values()))
    assert counts[1] - counts[0] == 4
    assert sum(gpu.copied.values()) == 6 * options.windows_per_step * torch.int64.itemsize


def test_a_step_end_to_end_waits_for_no_piece_of_the_logits(model, both, tmp_path, monkeypatch):
    counts = []
    for pieces in (4, 256):
        monkeypatch.setattr(device_module, "ON_GPU", replace(device_module.ON_CPU, tokens_of_logits=pieces))
        with PretendGPU() as gpu:
            fitting = Fitting.end_to_end(setting=SETTING, seed=0, recipe=END_TO_END["ostquant"])
            states, folder = both.folders["cpu"] / "states", tmp_path / str(pieces)
            calibrate_end_to_end(model, states, fitting, folder, fingerprint="t", device=torch.device("cuda"))
        counts.append(gpu.waits.total())
    assert counts[0] == counts[1]
