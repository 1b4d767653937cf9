"""What the recipe's fields make of the transforms before any step."""

import pytest
import torch
from models_for_tests import KINDS, Workspace, recipe

from altq.calibration.start import start_sublayer
from altq.calibration.states import States
from altq.calibration.sublayer import identity_transforms
from altq.experiment.kinds import HALVES
from altq.experiment.setting import Setting
from altq.models.skeleton import Skeleton
from altq.models.sublayer import Sublayer
from altq.transforms.balance import balance_scaling
from altq.transforms.heads import HeadAffine, HeadMixing
from altq.transforms.identity import Identity
from altq.transforms.scaling import Scaled, Scaling


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return Workspace("llama_gqa", tmp_path_factory.mktemp("start"))


def start(workspace, s, kind="affine", **options):
    """(transforms of a sublayer, what was observed there, its linears)."""
    skeleton, observed = Skeleton(workspace.model), States(workspace.states).observed(s)
    sublayer = Sublayer(skeleton.block(s // 2), skeleton.family, HALVES[s % 2])
    generator = torch.Generator().manual_seed(s)
    linears = sublayer.linears()
    return (
        start_sublayer(sublayer, observed, kind=kind, recipe=recipe(**options), generator=generator),
        observed,
        linears,
    )


def scale_of(transform):
    return (transform.scaling if isinstance(transform, Scaled) else transform).scale.detach()


@pytest.mark.parametrize("s", range(4))
def test_no_scaling_leaves_the_kind_alone(workspace, s):
    transforms, *_ = start(workspace, s, scaling="none")
    assert not any(isinstance(module, Scaling) for t in transforms.values() for module in t.modules())
    kinds = {site: type(transform).__name__ for site, transform in transforms.items()}
    attention = {"qkv": "Affine", "key": "HeadAffine", "value": "HeadAffine", "o": "HeadMixing"}
    assert kinds == (attention if s % 2 == 0 else {"gate_up": "Affine", "down": "Affine"})


@pytest.mark.parametrize("kind", ["scaling", "rotation", "affine", "hadamard", "balance"])
@pytest.mark.parametrize("s", [0, 3])
def test_a_scaling_starts_as_the_recipe_says(workspace, s, kind):
    sites = ["qkv"] if s % 2 == 0 else ["gate_up", "down"]
    for scaling in ("ones", "balance", "smooth"):
        transforms, observed, linears = start(workspace, s, kind, scaling=scaling, smooth_alpha=0.3)
        for site in sites:
            moment = observed[f"{site}.moment"][0]
            readers = {"qkv": "qkv", "gate_up": ("gate", "up"), "down": ("down",)}[site]
            weights = [linear.weight for name, linear in linears.items() if name.rpartition(".")[2][:-5] in readers]
            assert len(weights) == len(readers)
            peak_w = torch.cat(weights).abs().amax(0).double()
            expected = {
                "ones": torch.ones(len(moment), dtype=torch.float64),
                "balance": balance_scaling(moment, observed[f"{site}.sensitivity"][0]),
                "smooth": peak_w**0.7 / observed[f"{site}.peak"].double() ** 0.3,
            }[scaling]
            torch.testing.assert_close(scale_of(transforms[site]).double(), expected, rtol=1e-5, atol=0)


def test_the_three_scalings_differ(workspace):
    found = [scale_of(start(workspace, 0, scaling=scaling)[0]["qkv"]) for scaling in ("ones", "balance", "smooth")]
    for i in range(3):
        assert not torch.allclose(found[i], found[i - 1], rtol=0.05)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scaling", ["ones", "balance", "smooth"])
def test_other_sites_may_have_nothing_but_scalings_that_fold(workspace, kind, scaling):
    transforms, _observed, _ = start(workspace, 0, kind, scaling=scaling, other_sites="scaling")
    assert {site: type(t) for site, t in transforms.items() if site != "qkv"} == {
        "key": HeadAffine, "value": HeadAffine, "o": Identity
    }  # fmt: skip
    eye = torch.eye(6).repeat(3, 1, 1)
    assert torch.equal(transforms["key"].factors, eye)
    value = transforms["value"].factors.detach()
    assert torch.equal(value, value * eye)  # diagonal
    assert torch.equal(value, eye) == (scaling == "ones")
    # The selected site is as it is beside affine transforms.
    alone, *_ = start(workspace, 0, kind, scaling=scaling)
    assert type(transforms["qkv"]) is type(alone["qkv"])
    torch.testing.assert_close(transforms["qkv"].state_dict(), alone["qkv"].state_dict())
    down = start(workspace, 1, kind, scaling=scaling, other_sites="scaling")[0]["down"]
    assert isinstance(down, Scaled if kind == "balance" else Scaling)


def test_other_sites_without_any_scaling_are_left_alone(workspace):
    transforms, *_ = start(workspace, 0, "rotation", scaling="none", other_sites="scaling")
    for site in ("key", "value"):
        assert torch.equal(transforms[site].factors, torch.eye(6).repeat(3, 1, 1))
    assert type(transforms["o"]) is Identity
    down = start(workspace, 1, "rotation", scaling="none", other_sites="scaling")[0]["down"]
    assert torch.equal(down.scale, torch.ones(60))


def test_balanced_scalings_of_o_are_shared_by_the_heads_of_a_value(workspace):
    transforms, observed, _ = start(workspace, 0, scaling="balance", other_sites="scaling")
    scale = balance_scaling(observed["o.moment"][0], observed["o.sensitivity"][0])  # [6 heads * 6]
    for kv_head in range(3):
        first, second = (scale[(2 * kv_head + member) * 6 :][:6] for member in range(2))
        found = transforms["value"].factors[kv_head].detach().diagonal().double()
        torch.testing.assert_close(found, (first * second).sqrt(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", ["random", "cayley", "hadamard", "balance"])
def test_heads_and_o_start_as_the_recipe_says(workspace, name):
    transforms, *_ = start(workspace, 0, start=name, scaling="none")
    assert type(transforms["o"]) is HeadMixing
    for matrices in (transforms["key"].factors, transforms["value"].factors, transforms["o"].mixing):
        matrices = matrices.detach().double()
        error = (matrices @ matrices.mT - torch.eye(matrices.shape[-1])).abs().max()
        assert (error > 0.01) if name == "balance" else (error < 1e-5)


def test_the_value_and_key_of_identity_transforms_are_tensors_of_their_own(workspace):
    skeleton = Skeleton(workspace.model)
    transforms = identity_transforms(Sublayer(skeleton.block(0), skeleton.family, "attention"), 3)
    assert transforms.keys() == {"qkv", "o", "key", "value"}
    for site in ("key", "value"):
        assert torch.equal(transforms[site].factors, torch.eye(6).repeat(3, 1, 1))
    assert transforms["key"].factors.data_ptr() != transforms["value"].factors.data_ptr()


@pytest.mark.parametrize("scaling", ["none", "ones", "smooth"])
def test_key_and_value_are_tensors_of_their_own_where_other_sites_are_scaled(workspace, scaling):
    # A step on one must not move the other, and safetensors writes no tensors that share memory.
    transforms, *_ = start(workspace, 0, scaling=scaling, other_sites="scaling")
    assert transforms["key"].factors.data_ptr() != transforms["value"].factors.data_ptr()
    workspace.bank(Setting(4, 4, 4, 4), "rotation", folder=scaling, scaling=scaling, other_sites="scaling")
