"""A fitting: what a bank is, in plain values that tell one from another."""

import json

import pytest

from altq.calibration.fitting import Fitting
from altq.experiment.end_to_end_recipe import EndToEndRecipe
from altq.experiment.recipe import Recipe
from altq.experiment.setting import Setting

W4A4K4V4 = Setting(4, 4, 4, 4)


@pytest.mark.parametrize(
    ("trained", "kind"),
    [(["residual"], "identity"), (["residual", "value"], "identity"), (["scaling"], "scaling"), ([], "identity")],
    ids=str,
)
def test_end_to_end_a_scaling_stands_at_the_selected_sites_only_where_one_is_trained(trained, kind):
    recipe = EndToEndRecipe(trained=trained, steps=2 if trained else 0)
    fitting = Fitting.end_to_end(setting=W4A4K4V4, seed=5, recipe=recipe)
    assert (fitting.kind, fitting.setting, fitting.seed, fitting.recipe) == (kind, W4A4K4V4, 5, recipe)


@pytest.mark.parametrize(
    "change",
    [
        {"setting": Setting(4, 4, 4, 16)},
        {"kind": "rotation"},
        {"seed": 1},
        {"recipe": Recipe(steps=7)},
        {"recipe": Recipe(initial_clip=0.9)},
    ],
    ids=str,
)
def test_whatever_differs_is_in_the_description(change):
    given = {"setting": W4A4K4V4, "kind": "affine", "seed": 0, "recipe": Recipe()}
    assert Fitting(**given).description == Fitting(**given).description
    assert Fitting(**given | change).description != Fitting(**given).description


@pytest.mark.parametrize("recipe", [Recipe(), EndToEndRecipe()], ids=["by unit", "end to end"])
def test_a_description_is_the_same_out_of_a_file(recipe):
    description = Fitting(W4A4K4V4, kind="affine", seed=0, recipe=recipe).description
    assert json.loads(json.dumps(description)) == description
    assert type(recipe).model_validate(description["recipe"]) == recipe


def test_messages_name_the_kind_and_the_setting():
    assert str(Fitting(W4A4K4V4, kind="affine", seed=0, recipe=Recipe())) == "affine at W4A4K4V4"
