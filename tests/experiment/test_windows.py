"""Windows that are asked for and are not there: refused before any work, by name."""

import pytest
from models_for_tests import Workspace, recipe, write_selection

from altq.calibration.by_unit import calibrate_bank
from altq.calibration.end_to_end import calibrate_end_to_end
from altq.calibration.fitting import Fitting
from altq.checkpoint.assembly import assemble
from altq.checkpoint.scheme import Scheme
from altq.experiment.end_to_end_recipe import EndToEndRecipe
from altq.experiment.policies import SearchOptions
from altq.experiment.rounding import RoundingOptions
from altq.experiment.setting import Setting
from altq.experiment.windows import require_windows, windows_beyond
from altq.selection.candidates import Candidates
from altq.selection.learned import search_model
from altq.selection.selection import Selection

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
    subject, folders = workspace.subject(), (workspace.model, workspace.states)
    few, many = recipe(steps=1), recipe(steps=1, search_windows=5)
    with pytest.raises(ValueError, match="search_windows is 5, but the states have 4"):
        fitting = Fitting(SETTING, kind="affine", seed=0, recipe=many)
        calibrate_bank(subject, fitting, tmp_path / "bank", fingerprint="code")
    with pytest.raises(ValueError, match="windows_per_step is 5, but the states have 4"):
        recipe_of_steps = EndToEndRecipe(steps=1, windows_per_step=5)
        fitting = Fitting.end_to_end(setting=SETTING, seed=0, recipe=recipe_of_steps)
        calibrate_end_to_end(*folders, fitting, tmp_path / "bank", fingerprint="code")
    for of_bank, options, said in (
        (many, SearchOptions(), "search_windows is 5"),
        (few, SearchOptions(windows_per_step=5), "windows_per_step is 5"),
    ):
        with pytest.raises(ValueError, match=f"{said}, but the states have 4"):
            candidates = Candidates(("affine", "rotation"), setting=SETTING, seed=0, recipe=of_bank)
            search_model(subject, candidates, options=options, folder=tmp_path / "search", fingerprint="code")
    selection = write_selection(["identity"] * 4, workspace.folder / "selection.json")
    schemes = {
        windows: Scheme(Selection.read(selection), setting=SETTING, rounding=RoundingOptions(windows=windows))
        for windows in (4, 5)
    }
    with pytest.raises(ValueError, match="windows is 5, but the states have 4"):
        assemble(*folders, schemes[5], tmp_path / "checkpoint", fingerprint="test")
    assert not list(tmp_path.iterdir())
    assemble(*folders, schemes[4], tmp_path / "checkpoint", fingerprint="test")
