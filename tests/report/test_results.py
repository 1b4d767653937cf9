"""Result files are typed before a table reads them: what is none is refused by name."""

import json

import pytest
from results_for_tests import result

from altq.report.results import read_accuracy, read_perplexity
from altq.report.selections import calibration_seconds, selection_seconds
from altq.selection.selection import Decision, Selection

ACCURACY = {
    "setting": "W4A4K4V4", "method": "affine", "model": "m", "weights": "gptq", "seed": 0, "task": "piqa", "num_items": 4,
    "acc": {"value": 0.5, "stderr": 0.1}, "acc_norm": {"value": 0.5, "stderr": 0.1},
}  # fmt: skip


def refused(read, folder, content):
    (folder / "r.json").write_text(json.dumps(content))
    with pytest.raises(ValueError) as caught:
        read(folder / "r.json")
    assert str(folder / "r.json") in str(caught.value) and str(caught.value).endswith("evaluate again")
    return str(caught.value)


def test_a_result_reads_back(tmp_path):
    written = result("affine", 8.0)
    (tmp_path / "r.json").write_text(json.dumps(written))
    read = read_perplexity(tmp_path / "r.json")
    for name in written.keys() - {"provenance"}:
        assert read[name] == written[name]
    assert selection_seconds(read) == selection_seconds(written)


@pytest.mark.parametrize("read", [read_perplexity, read_accuracy])
@pytest.mark.parametrize("content", [[], None, 3, "x", {}])
def test_what_is_no_result_at_all(tmp_path, read, content):
    assert " is not a " in refused(read, tmp_path, content)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"method": "afine"}, "method: method 'afine' is not known"),
        ({"setting": "W4"}, "setting: setting 'W4' is not of the form"),
        ({"perplexity": "low"}, "perplexity: "),
        ({"perplexity": -1}, "perplexity: "),
        ({"perplexity_low": float("nan")}, "perplexity_low: "),
        ({"provenance": []}, "provenance: is a list"),
        ({"provenance": {"upstream": {"a": []}}}, "provenance.upstream.a: is a list"),
    ],
)
def test_a_wrong_field_is_named(tmp_path, change, said):
    assert said in refused(read_perplexity, tmp_path, result("affine", 8.0) | change)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"task": "piqua"}, "task: task 'piqua' is not known; did you mean piqa"),
        ({"acc": 0.5}, "acc: is a number, not an object with keys"),
        ({"acc": {"value": 1.5, "stderr": 0}}, "acc.value: "),
        ({"acc_norm": None}, "has no acc_norm, which the average of piqa takes"),
    ],
)
def test_a_wrong_accuracy_is_named(tmp_path, change, said):
    assert said in refused(read_accuracy, tmp_path, ACCURACY | change)


def test_a_history_that_lacks_something_is_named():
    chosen = Selection("p", "tiny", 1, (Decision(0, "affine", ""), Decision(1, "rotation", "")))
    made = result("affine", 8.0)
    upstream = made["provenance"]["upstream"]
    banks = [path for path, step in upstream.items() if step.get("command") == "calibrate"]
    del upstream[banks[1]]["processor_seconds"]
    with pytest.raises(ValueError, match=r"does not say what .*bank.* took; evaluate again"):
        calibration_seconds(made, chosen)
    del upstream[banks[1]]
    with pytest.raises(ValueError, match="has no bank of rotation behind it; evaluate again"):
        calibration_seconds(made, chosen)
