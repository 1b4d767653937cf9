import subprocess
import sys

import pytest
from pydantic import ValidationError

from altq.experiment.policies import AttentionOptions, FfnOptions, HeuristicOptions


def test_defaults_are_the_papers():
    options = HeuristicOptions()
    assert (options.attention.share, options.attention.beta, options.attention.score) == (0.7, 0.1, "sum")
    assert (options.ffn.share, options.ffn.beta, options.ffn.score) == (0.5, 0.9, "concat")
    assert options.attention.beta_rule == options.ffn.beta_rule == "fixed"


def test_a_part_may_be_changed_alone():
    options = HeuristicOptions.model_validate({"ffn": {"beta": 0.8}, "attention": {"count": 3}})
    assert (options.ffn.share, options.ffn.beta) == (0.5, 0.8)
    assert (options.attention.share, options.attention.count) == (None, 3)


@pytest.mark.parametrize("changes", [{}, {"attention": {"count": 3}}, {"ffn": {"share": 1}}])
def test_dump_reads_back(changes):
    options = HeuristicOptions.model_validate(changes)
    assert HeuristicOptions.model_validate(options.model_dump()) == options


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"beta": 1.2}, "less than or equal to 1"),
        ({"beta": -0.1}, "greater than or equal to 0"),
        ({"beta": float("nan")}, "finite"),
        ({"share": 1.01}, "less than or equal to 1"),
        ({"share": -0.5}, "greater than or equal to 0"),
        ({"share": "0.5"}, "valid number"),
        ({"count": -1}, "greater than or equal to 0"),
        ({"count": 2.5}, "valid integer"),
        ({"share": 0.5, "count": 3}, "give one of them"),
        ({"beta_rule": "mass"}, "'fixed' or 'z_mass'"),
        ({"betta": 0.5}, "Extra inputs are not permitted"),
    ],
)
@pytest.mark.parametrize("options", [AttentionOptions, FfnOptions])
def test_bad_options_are_refused(options, changes, message):
    with pytest.raises(ValidationError, match=message):
        options.model_validate(changes)


def test_attention_has_no_concatenated_score():
    with pytest.raises(ValidationError, match="'sum'"):
        AttentionOptions.model_validate({"score": "concat"})


def test_selection_imports_nothing_heavy():
    modules = "altq.experiment.policies, altq.selection.selection, altq.selection.heuristic"
    heavy = "{'torch', 'transformers', 'pandas', 'matplotlib'}"
    code = f"import sys, {modules}; print({heavy} & set(sys.modules) or 'none')"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "none\n"
