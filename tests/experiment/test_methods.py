"""The methods and the baselines as data: what each names must be there."""

import pytest
from pydantic import ValidationError

from altq.experiment.baselines import BASELINES, DIFFERENCES, END_TO_END
from altq.experiment.end_to_end_recipe import EndToEndRecipe
from altq.experiment.kinds import KINDS
from altq.experiment.methods import (
    BANKS,
    MEASURED_POLICIES,
    METHODS,
    is_refined,
    method_of,
    method_of_policy,
    unrefined,
)
from altq.experiment.recipe import Recipe
from altq.experiment.setting import FULL


def test_every_bank_is_a_baseline_s_or_that_of_its_kind():
    for name, method in METHODS.items():
        for kind, bank in (method.banks or {}).items():
            assert kind in KINDS, name
            assert bank in BASELINES or bank == kind, name
    probes = {f"probe-{kind}" for kind in KINDS}
    assert BANKS.keys() == {*BASELINES, *KINDS, *probes}
    assert all(BANKS[f"probe-{kind}"] == BANKS[kind] == kind for kind in KINDS)


def test_a_bank_holds_one_kind_wherever_it_is_named():
    for method in METHODS.values():
        for kind, bank in (method.banks or {}).items():
            assert BANKS[bank] == kind


def test_numbered_methods_read_our_own_banks():
    assert method_of("random12").policy == "random12" and method_of("random12").banks is None
    assert method_of("grid3").banks == method_of("adaptive").banks == {"affine": "affine", "rotation": "rotation"}
    assert method_of("quarot") is METHODS["quarot"]
    with pytest.raises(KeyError):
        method_of("gird3")


def test_a_refined_method_is_another_label_of_the_same_selection_and_banks():
    for name in (*METHODS, "random3", "grid5"):
        method, refined = method_of(name), method_of(f"{name}_refined")
        assert (refined.policy, refined.banks) == (method.policy, method.banks)
        assert refined.label == f"{method.label}, refined"
        assert is_refined(f"{name}_refined") and not is_refined(name)
        assert unrefined(f"{name}_refined") == unrefined(name) == name
    for name in ("full_refined", "_refined", "gird3_refined"):
        with pytest.raises(KeyError):
            method_of(name)


def test_a_policy_leads_back_to_its_method():
    for name in ("affine", "rotation", "adaptive", "learned", "grid3", "random0"):
        assert method_of_policy(method_of(name).policy) == name


def test_a_baseline_is_a_method_with_a_bank_of_its_own_and_a_difference_that_is_told():
    assert BASELINES.keys() <= METHODS.keys() and DIFFERENCES.keys() == BASELINES.keys()
    for name in BASELINES:
        assert list(METHODS[name].banks.values()) == [name]
    assert all(DIFFERENCES.values())


def test_a_policy_that_chooses_one_kind_reads_that_kind_s_bank():
    for name, method in METHODS.items():
        if method.policy in KINDS:
            # Without a bank it is identity: round-to-nearest.
            assert set(method.banks) == {method.policy} or (name == "rtn" and not method.banks)
        elif method.policy == "heuristic":
            assert set(method.banks) == {"affine", "rotation"}
        else:
            assert method.policy in MEASURED_POLICIES and method.banks is None


def test_labels_and_names_are_of_one_method_each():
    labels = [method.label for method in METHODS.values()]
    assert len(set(labels)) == len(labels) and all(labels)
    assert FULL not in METHODS


def test_a_rotated_stream_and_one_that_is_not_are_never_mixed_in_a_method():
    for method in METHODS.values():
        assert len({bank in END_TO_END for bank in (method.banks or {}).values()}) <= 1


@pytest.mark.parametrize("name", BASELINES)
def test_recipes_are_frozen_and_refuse_unknown_keys(name):
    recipe = BASELINES[name]
    with pytest.raises(ValidationError, match="frozen"):
        recipe.steps = 1
    with pytest.raises(ValidationError, match="Extra inputs"):
        type(recipe)(**recipe.model_dump(), epochs=3)


def test_end_to_end_are_those_that_rotate_the_residual_stream():
    assert END_TO_END == ("quarot", "spinquant", "ostquant")
    assert all(isinstance(BASELINES[name], EndToEndRecipe) == (name in END_TO_END) for name in BASELINES)
    assert all(isinstance(BASELINES[name], EndToEndRecipe | Recipe) for name in BASELINES)


def test_what_takes_steps_trains_something():
    for name in END_TO_END:
        recipe = BASELINES[name]
        assert bool(recipe.trained) == bool(recipe.steps), name
