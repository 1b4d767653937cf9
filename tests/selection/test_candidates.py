"""Candidates: the kinds that are compared, each as the calibration of its own bank starts it."""

import json

import pytest
from models_for_tests import recipe

from altq.calibration.fitting import Fitting
from altq.experiment.setting import Setting
from altq.selection.candidates import Candidates

W4A4K4V4 = Setting(4, 4, 4, 4)
GIVEN = {"kinds": ("rotation", "affine"), "setting": W4A4K4V4, "seed": 3, "recipe": recipe()}


def test_each_kind_is_fitted_as_its_bank_is():
    fittings = Candidates(**GIVEN).fittings
    assert fittings == {
        kind: Fitting(W4A4K4V4, kind=kind, seed=3, recipe=GIVEN["recipe"]) for kind in ("rotation", "affine")
    }


def test_fittings_are_in_the_order_of_the_shares():
    assert list(Candidates(**GIVEN).fittings) == ["rotation", "affine"]
    assert list(Candidates(**GIVEN | {"kinds": ("affine", "rotation")}).fittings) == ["affine", "rotation"]


@pytest.mark.parametrize(
    "change",
    [
        {"kinds": ("affine", "rotation")},  # shares are by place
        {"kinds": ("rotation", "affine", "identity")},
        {"setting": Setting(3, 4, 4, 4)},
        {"seed": 4},
        {"recipe": recipe(initial_clip=0.5)},
    ],
    ids=str,
)
def test_whatever_differs_is_in_the_description(change):
    assert Candidates(**GIVEN).description == Candidates(**GIVEN).description
    assert Candidates(**GIVEN | change).description != Candidates(**GIVEN).description


def test_a_description_is_the_same_out_of_a_file():
    description = Candidates(**GIVEN).description
    assert json.loads(json.dumps(description)) == description
