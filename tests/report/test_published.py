import pytest

from altq.experiment.methods import METHODS
from altq.report.published import _tables, published, published_models, published_perplexity

FULL = "W16A16K16V16"


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("table1", "W3A3K3V3", "rotation", "LLaMA-2-7B", "C4"), 10.90),
        (("table1", "W3A3K3V3", "affine", "LLaMA-2-7B", "zero-shot average"), 59.89),
        (("table2", FULL, "full", "LLaMA-3-8B", "C4"), 9.45),
        (("table2", "W4A4K4V4", "quarot", "LLaMA-2-13B", "WikiText-2"), 5.40),
        (("table2", "W4A4K4V4", "spinquant", "LLaMA-3-8B", "WikiText-2"), 7.39),
        (("table2", "W3A3K2V2", "ostquant", "LLaMA-3-8B", "C4"), 43.62),
        (("table2", "W3A3K2V2", "adaptive", "LLaMA-2-7B", "WikiText-2"), 9.83),
        (("table3", "W3A3K3V3", "flatquant", "LLaMA-2-7B", "average"), 59.45),  # Table 1 prints 59.89 for the same
        (("table4", "W3A3K3V3", "adaptive", "LLaMA-2-13B", "hours"), 7.5),
        (("table5a", "W4A4K4V4", "int4", "LLaMA-2-7B", "8192"), 1.94),
        (("table5b", "W4A4K4V4", "adaptive", "LLaMA-2-7B", "2048"), 1.117),
    ],
)
def test_as_printed(place, value):
    assert published(*place).value == value


def test_what_is_not_printed_is_none():
    assert published("table2", "W4A4K4V4", "ostquant", "LLaMA-2-7B", "C4") is None
    assert published("table2", "W4A4K4V4", "rtn", "LLaMA-2-7B", "C4") is None
    assert published("table1", "W3A3K3V3", "random", "LLaMA-2-7B", "C4") == (9.96, 0.59)


def test_table2_is_complete():
    # 1 + 5 + 3 + 3 + 3 rows of 3 models and 2 corpora, without the three C4 figures of OSTQuant
    assert len(_tables()["table2"]) == 15 * 6 - 3
    assert published_models() == ("LLaMA-2-7B", "LLaMA-2-13B", "LLaMA-3-8B")


def test_the_improvement_that_the_abstract_states():
    values = [published("table2", "W3A3K2V2", method, "LLaMA-3-8B", "C4").value for method in ("flatquant", "adaptive")]
    assert values[0] - values[1] == pytest.approx(4.58)


def test_zero_shot_averages_are_the_means_of_their_tasks_but_for_two_misprints():
    table = _tables()["table3"]
    wrong = set()
    for setting, method, model in {key[:3] for key in table}:
        row = {key[3]: entry.value for key, entry in table.items() if key[:3] == (setting, method, model)}
        average = row.pop("average")
        assert len(row) == 6
        if abs(sum(row.values()) / 6 - average) > 0.0051:
            wrong.add((setting, method, model))
    assert wrong == {("W3A3K3V3", "adaptive", "LLaMA-2-13B"), ("W3A3K3V3", "flatquant", "LLaMA-3-8B")}


def test_counterparts():
    assert published_perplexity("W3A3K3V3", "flatquant", "LLaMA-2-7B", "C4") == 9.76
    assert published_perplexity("W3A3K3V3", "affine", "LLaMA-2-7B", "C4") is None
    assert published_perplexity("W3A3K3V3", "rotation", "LLaMA-2-7B", "C4") == 10.90  # Table 1's
    assert published_perplexity("W4A4K4V4", "rotation", "LLaMA-2-7B", "C4") is None
    assert published_perplexity("W4A4K4V4", "rtn", "LLaMA-2-7B", "C4") is None


def test_every_method_that_the_paper_prints_is_one_of_ours():
    assert {method for _, method, _, _ in _tables()["table2"]} <= {"full", *METHODS}


@pytest.mark.parametrize(("model", "corpus"), [("LLaMA-2-70B", "C4"), ("LLaMA-2-7B", "c4")])
def test_unknown_names_are_refused(model, corpus):
    with pytest.raises(ValueError, match=r"the paper reports no (model 'LLaMA-2-70B'|corpus 'c4')"):
        published_perplexity("W4A4K4V4", "affine", model, corpus)
