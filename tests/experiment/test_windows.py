"""Windows that are asked for and are not there: refused before any work, by name."""

import pytest
from models_for_tests import Workspace, recipe, write_selection

from altq.calibration.by_unit import calibrate_bank
from altq.calibration.end_to_end import calibrate_end_to_end
from altq.checkpoint.assembly import assemble
from altq.experiment.end_to_end_recipe import EndToEndRecipe
from altq.experiment.policies import SearchOptions
from altq.experiment.rounding import RoundingOptions
from altq.experiment.setting import Setting
from altq.experiment.windows import require_windows, windows_beyond
from altq.selection.learned import search_model

SETTING = Setting(4, 4, 4, 4)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """It has four windows."""
    return Workspace("llama_gqa", tmp_path_factory.mktemp("windows"))


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        (recipe(steps=1, search_windows=5, windows_per_step=6), {"search_windows": 5, "windows_per_step": 6}),
        (recipe(steps=0, clip_search=True, search_windows=5, windows_per_step=6), {"search_windows": 5}),
        (recipe(steps=0, search_windows=5, windows_per_step=6), {}),
        (EndToEndRecipe(steps=1, windows_per_step=5), {"windows_per_step": 5}),
        (EndToEndRecipe(steps=0, windows_per_step=5), {}),
        (SearchOptions(windows_per_step=5), {"windows_per_step": 5}),
        (RoundingOptions(weights="gptq", windows=5), {"windows": 5}),
        (RoundingOptions(weights="rtn", windows=5), {}),
    ],
)
def test_options_ask_for_what_is_looked_at(options, asked):
    assert windows_beyond(options, 4) == asked
    assert windows_beyond(options, 6) == {}
    if asked:
        with pytest.raises(ValueError, match=r" is 5.*, but the states have 4 windows"):
            require_windows(options, 4)
    else:
        require_windows(options, 4)


def test_no_stage_begins_with_windows_that_are_not_there(workspace, tmp_path):
    given = workspace.model, workspace.states, SETTING
    few, many = recipe(steps=1), recipe(steps=1, search_windows=5)
    with pytest.raises(ValueError, match="search_windows is 5, but the states have 4"):
        calibrate_bank(*given, "affine", 0, many, tmp_path / "bank", "code")
    with pytest.raises(ValueError, match="windows_per_step is 5, but the states have 4"):
        calibrate_end_to_end(*given, 0, EndToEndRecipe(steps=1, windows_per_step=5), tmp_path / "bank", "code")
    for of_bank, options, said in (
        (many, SearchOptions(), "search_windows is 5"),
        (few, SearchOptions(windows_per_step=5), "windows_per_step is 5"),
    ):
        with pytest.raises(ValueError, match=f"{said}, but the states have 4"):
            search_model(*given, 0, ["affine", "rotation"], of_bank, options, tmp_path / "search", "code")
    selection = write_selection(["identity"] * 4, workspace.folder / "selection.json")
    made = workspace.model, workspace.states, selection, {}, SETTING
    with pytest.raises(ValueError, match="windows is 5, but the states have 4"):
        assemble(*made, RoundingOptions(windows=5), tmp_path / "checkpoint", "test")
    assert not list(tmp_path.iterdir())
    assemble(*made, RoundingOptions(windows=4), tmp_path / "checkpoint", "test")
