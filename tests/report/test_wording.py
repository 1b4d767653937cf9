"""Every option has words, and lists read as prose."""

import pytest

from altq.experiment.baselines import BASELINES, END_TO_END
from altq.experiment.end_to_end_recipe import EndToEndRecipe
from altq.experiment.experiment import CalibrationOptions, EvaluationOptions
from altq.experiment.methods import BANKS
from altq.experiment.policies import SearchOptions
from altq.experiment.recipe import Recipe
from altq.experiment.refinement import RefinementOptions
from altq.report.wording import OF_KIND, OF_STEPS, WORDS, entries, in_words, listed


@pytest.mark.parametrize(
    ("section", "options", "left_out"),
    [
        ("recipe", Recipe, {"search_windows"}),
        ("end_to_end", EndToEndRecipe, {"windows_in_memory"}),
        ("calibration", CalibrationOptions, {"corpus", "shards", "border_every"}),
        ("evaluation", EvaluationOptions, set()),
        ("search", SearchOptions, set()),
        ("refinement", RefinementOptions, set()),
    ],
)
def test_every_option_has_words(section, options, left_out):
    assert WORDS[section].keys() | left_out == options.model_fields.keys()
    for name, words in WORDS[section].items():
        if isinstance(words, dict):
            schema = options.model_json_schema()["properties"][name]
            values = {"boolean": {True, False}}.get(schema.get("type"), set(schema.get("enum", words)))
            assert words.keys() == values, name


def test_every_baseline_has_words():
    for name, recipe in BASELINES.items():
        section = "end_to_end" if name in END_TO_END else "recipe"
        assert all(in_words(section, option, getattr(recipe, option)) for option in WORDS[section])


def test_conditions_name_options_and_kinds_that_there_are():
    options = WORDS["recipe"] | WORDS["end_to_end"]
    assert {*OF_STEPS, *OF_KIND} <= options.keys() and {*OF_KIND.values()} <= {*BANKS.values()}


def test_only_the_options_asked_for_are_compared():
    ours, theirs = Recipe(steps=1, learning_rate=0.5), Recipe(steps=2, learning_rate=0.25)
    told = entries("recipe", "recipe", ours, theirs, ["steps", "start"])
    assert told == [("recipe.steps", "1", "2"), ("recipe.start", "closed form (balance)", "closed form (balance)")]
    assert [entry.departs for entry in told] == [True, False]


def test_lists_read_as_prose():
    assert [listed(texts) for texts in ("a", "ab", "abc")] == ["a", "a and b", "a, b and c"]
