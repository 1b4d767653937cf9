"""The student is the checkpoint that it is made from, with gradients for what scales its codes and for nothing else."""

import pytest
import torch
from models_for_tests import MODELS, Workspace, logits, make_tokens, relative_error

from altq.checkpoint.quantized_model import load_model
from altq.experiment.rounding import RoundingOptions
from altq.experiment.setting import Setting
from altq.models.family import family_of
from altq.refinement.student import Student

RTN = RoundingOptions(weights="rtn", windows=4)
MIXTURE = ["affine", "rotation", "identity", "balance"]
LENGTH = 12


def student_of(workspaces, name, setting, **options):
    workspace = workspaces(name)
    folder = workspace.checkpoint(setting, MIXTURE, RTN, folder=f"{setting}{options}", **options)
    return folder, Student(folder, LENGTH)


def windows(count=2):
    return torch.from_numpy(make_tokens(windows=count, length=LENGTH, seed=5)).long()


@pytest.mark.parametrize("name", MODELS)
def test_its_logits_are_those_of_the_checkpoint(workspaces, name):
    folder, student = student_of(workspaces, name, Setting(3, 4, 3, 3))
    expected = logits(load_model(folder), windows().numpy())
    for mode in (torch.no_grad, torch.enable_grad):
        with mode():
            found = student.logits(student(windows()).flatten(0, 1))
        assert relative_error(found.detach(), expected.flatten(0, 1)) < 1e-5


@pytest.mark.parametrize("setting", ["W4A16K16V16", "W16A4K16V4", "W4A4K2V16", "W3A16K4V4g16", "W2A4K4V4g16"])
@pytest.mark.parametrize("zero_point", [False, True])
def test_widths_of_16_bits_among_others_groups_and_zero_points(workspaces, setting, zero_point):
    folder, student = student_of(workspaces, "llama_gqa", Setting.parse(setting), zero_point=zero_point)
    with torch.no_grad():
        found = student.logits(student(windows()).flatten(0, 1))
    assert relative_error(found, logits(load_model(folder), windows().numpy()).flatten(0, 1)) < 1e-5


@pytest.mark.parametrize("name", ["llama_biases", "qwen3", "gemma2", "olmo2", "phi3"])
def test_scales_of_rows_clipping_factors_and_gains_are_trained_and_nothing_else(workspaces, name):
    _, student = student_of(workspaces, name, Setting(3, 3, 3, 3))
    hidden = student(windows())
    (hidden * torch.randn(hidden.shape, generator=torch.Generator().manual_seed(0))).sum().backward()
    family = family_of(student.skeleton.config.model_type)
    expected = {f"{family.last_norm}.weight"}
    for block in range(student.skeleton.num_blocks):
        prefix = student.skeleton.weights.block_prefix(block)
        stored = student.skeleton.weights.block(block)
        projections = [name for half in (family.attention, family.ffn) for name in half.projections]
        expected |= {f"{prefix}{name}.scale" for name in projections}
        expected |= {prefix + name for name in stored if name.endswith(".clip")}
        expected |= {prefix + name for name in stored if "norm" in name}
    assert student.trained.logs.keys() == expected
    for name, log in student.trained.logs.items():
        assert log.grad is not None and log.grad.isfinite().all(), name
        assert log.grad.any() or name.endswith(("k_norm.weight", "q_norm.weight")), name
    assert not any(parameter.requires_grad for parameter in student.skeleton.model.parameters())


def test_gradients_of_scales_and_gains_are_those_of_finite_differences(workspaces):
    """With inputs and cache at 16 bits the loss is smooth in the scales of weights, those of the first block, too."""
    _, student = student_of(workspaces, "llama_gqa", Setting(3, 16, 16, 16))
    generator = torch.Generator().manual_seed(1)
    direction = torch.randn(2, LENGTH, student.skeleton.config.hidden_size, generator=generator)
    names = [name for name in student.trained.logs if name.endswith((".scale", "norm.weight"))]

    def objective():
        return (student(windows()) * direction).double().sum()

    objective().backward()
    for name in names:
        log = student.trained.logs[name]
        along = torch.randn(log.shape, generator=generator)
        values = []
        for step in (1e-2, -1e-2):
            with torch.no_grad():
                log.copy_(step * along)
                values.append(objective().item())
                log.zero_()
        expected = (values[0] - values[1]) / 2e-2
        size = (log.grad.norm() * along.norm()).item()
        assert (log.grad * along).sum().item() == pytest.approx(expected, abs=2e-2 * size), name


def test_a_gain_with_an_offset_is_scaled_as_a_whole(workspaces):
    """Gemma's norms multiply by 1 + weight."""
    _, student = student_of(workspaces, "gemma3_text", Setting(4, 4, 4, 4))
    name = "model.norm.weight"
    stored = student.skeleton.weights.tensor(name)
    assert torch.equal(student.trained.value(name), stored)
    with torch.no_grad():
        student.trained.logs[name].fill_(torch.tensor(2.0).log())
    torch.testing.assert_close(student.trained.value(name).detach(), 2 * (1 + stored) - 1)


def test_signs_stay_however_far_a_logarithm_goes(workspaces):
    _, student = student_of(workspaces, "llama_gqa", Setting(3, 3, 3, 3), signed_scale=True)
    name = next(name for name in student.trained.logs if name.endswith(".scale"))
    before = student.trained.value(name).sign()
    assert (before < 0).any() and (before > 0).any()
    for log in (-5.0, 5.0):
        with torch.no_grad():
            student.trained.logs[name].fill_(log)
        assert torch.equal(student.trained.value(name).sign(), before)


def test_what_quantizes_nothing_is_refused(workspaces):
    folder = workspaces("llama_gqa").checkpoint(Setting(16, 16, 16, 16), ["identity"] * 4, RTN, folder="16")
    with pytest.raises(ValueError, match="W16A16K16V16, which quantizes nothing"):
        Student(folder, LENGTH)


def test_a_checkpoint_whose_stream_is_rotated(tmp_path):
    from altq.calibration.end_to_end import calibrate_end_to_end
    from altq.calibration.fitting import Fitting
    from altq.checkpoint.assembly import assemble
    from altq.checkpoint.scheme import Scheme
    from altq.experiment.baselines import QUAROT
    from altq.selection.selection import Decision, Selection

    workspace, setting = Workspace("llama_tied", tmp_path), Setting(4, 4, 4, 4)
    fitting = Fitting.end_to_end(setting=setting, seed=0, recipe=QUAROT)
    calibrate_end_to_end(workspace.model, workspace.states, fitting, tmp_path / "quarot", fingerprint="test")
    decisions = tuple(Decision(s, "identity", "for a test") for s in range(4))
    scheme = Scheme(Selection("test", "tiny", 2, decisions), setting, RTN, {"identity": tmp_path / "quarot"})
    assemble(workspace.model, workspace.states, scheme, tmp_path / "checkpoint", fingerprint="test")
    with torch.no_grad():
        student = Student(tmp_path / "checkpoint", LENGTH)
        found = student.logits(student(windows()).flatten(0, 1))
    expected = logits(load_model(tmp_path / "checkpoint"), windows().numpy()).flatten(0, 1)
    assert relative_error(found, expected) < 1e-5
