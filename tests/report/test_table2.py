import json
import math

import pandas
import pytest

from altq.report.perplexity import COLUMNS, context_notes, format_perplexity, perplexity_frame
from altq.report.presentation import Entry, Presentation
from altq.report.table import to_terminal
from altq.report.table2 import wide_table, write_table2
from altq.report.table_files import read_tidy

PLAIN = Presentation(protocol=(Entry("note", "Made numbers."),))
PAPERS = Presentation(published_models={"tiny": "LLaMA-2-7B"}, published_corpora={"wiki": "WikiText-2"})


def result(setting, method, perplexity, *, corpus="wiki", model="tiny", weights="gptq", seed=0, half=0.01):
    """half: of the interval over windows, as a share of the perplexity."""
    return {
        "setting": setting, "method": method, "model": model, "corpus": corpus, "weights": weights, "seed": seed,
        "perplexity": perplexity, "perplexity_low": (1 - half) * perplexity, "perplexity_high": (1 + half) * perplexity,
        "num_tokens": 511, "nll": [1.0],
    }  # fmt: skip


def made():
    return [
        result("W16A16K16V16", "full", 5.0, weights="none"),
        result("W4A4K4V4", "rtn", 244925.3),
        result("W4A4K4V4", "affine", 9.0),
        result("W4A4K4V4", "adaptive", 8.0),
        result("W3A3K3V3", "rtn", 1000.4),
        result("W3A3K3V3", "affine", 123.45),
        result("W3A3K3V3", "adaptive", 130.0),
    ]


def bold(table):
    return {(row.stub, i) for row in table.rows for i, cell in enumerate(row.cells) if cell.bold}


def test_the_csv_reads_back(tmp_path):
    paths = []
    for i, value in enumerate(made()):
        paths.append(tmp_path / f"{i}.json")
        paths[-1].write_text(json.dumps(value))
    csv = tmp_path / "table2.csv"
    write_table2(paths, csv, PLAIN)
    assert csv.read_text().splitlines()[0] == (
        "setting,method,model,corpus,weights,perplexity,perplexity_low,perplexity_high,seed,num_tokens,published"
    )
    frame = read_tidy(csv)
    assert tuple(frame.columns) == COLUMNS
    pandas.testing.assert_frame_equal(frame, perplexity_frame(made(), PLAIN))
    assert frame.loc[1, "perplexity"] == 244925.3
    assert frame.loc[0, "weights"] == "none"
    assert frame["published"].isna().all()
    assert csv.read_text().splitlines()[1].endswith(",511,")
    assert {path.suffix for path in tmp_path.glob("table2.*")} == {".csv", ".md", ".html", ".tex", ".png"}
    assert "**8.00**" in (tmp_path / "table2.md").read_text()
    assert r"\textbf{8.00}" in (tmp_path / "table2.tex").read_text()
    assert "Made numbers." in (tmp_path / "table2.protocol.md").read_text()
    for suffix in (".md", ".tex"):
        text = (tmp_path / "table2").with_suffix(suffix).read_text()
        assert "Made numbers." not in text and "table2.protocol.md" in text
    assert "8.00*" in to_terminal(wide_table(frame, PLAIN), "p")


def test_the_best_of_each_setting_is_bold():
    table = wide_table(perplexity_frame(made(), PLAIN), PLAIN)
    assert bold(table) == {(("W4A4K4V4", "Adaptive"), 0), (("W3A3K3V3", "Affine"), 0)}
    assert table.groups[0][0].stub == ("", "Full precision")
    texts = [row.cells[0].text for row in table.rows]
    assert texts == ["5.00", "2.4e5", "9.00", "8.00", "1000", "123.5", "130.0"]


@pytest.mark.parametrize(
    ("first", "second", "half", "marked"),
    [
        (8.0, 9.0, 0.05, True),  # 7.6 to 8.4, 8.55 to 9.45
        (8.0, 9.0, 0.06, False),  # 7.52 to 8.48, 8.46 to 9.54
        (8.0, 8.0, 0.0, False),
        (8.001, 8.004, 0.0, False),  # prints alike
        (8.001, 8.006, 0.0, True),
    ],
)
def test_ties_and_differences_inside_the_intervals_are_not_bold(first, second, half, marked):
    for methods in (("affine", "rotation"), ("rotation", "affine")):
        results = [
            result("W4A4K4V4", name, value, half=half) for name, value in zip(methods, (first, second), strict=True)
        ]
        expected = {(("W4A4K4V4", methods[0].capitalize()), 0)} if marked else set()
        assert bold(wide_table(perplexity_frame(results, PLAIN), PLAIN)) == expected


def test_one_interval_that_touches_the_best_is_enough():
    results = [result("W4A4K4V4", name, value) for name, value in (("rtn", 10.0), ("affine", 8.0), ("rotation", 8.1))]
    assert not bold(wide_table(perplexity_frame(results, PLAIN), PLAIN))


def test_the_intervals_of_all_seeds_count():
    results = [result("W4A4K4V4", "affine", value, seed=seed) for seed, value in enumerate((8.0, 8.1, 9.5))]
    results += [result("W4A4K4V4", "rotation", value, seed=seed) for seed, value in enumerate((9.0, 9.1, 9.2))]
    assert not bold(wide_table(perplexity_frame(results, PLAIN), PLAIN))


def test_without_a_competitor_nothing_is_bold():
    results = [result("W4A4K4V4", "affine", 8.0)]
    assert not bold(wide_table(perplexity_frame(results, PLAIN), PLAIN))


def test_several_seeds_give_mean_and_deviation():
    results = [result("W4A4K4V4", "affine", value, seed=seed) for seed, value in enumerate((9.0, 10.0, 11.0))]
    results += [result("W4A4K4V4", "adaptive", value, seed=seed) for seed, value in enumerate((308.0, 320.0, 332.0))]
    table = wide_table(perplexity_frame(results, PLAIN), PLAIN)
    assert [row.cells[0].text for row in table.rows] == ["10.00 ± 1.00", "320.0 ± 12.0"]
    assert bold(table) == {(("W4A4K4V4", "Affine"), 0)}
    assert "over 3 seeds" in table.caption


def test_roundings_are_named_where_they_differ():
    results = [result("W4A4K4V4", method, 8.0, weights=w) for method in ("rtn", "affine") for w in ("rtn", "gptq")]
    table = wide_table(perplexity_frame(results, PLAIN), PLAIN)
    labels = [row.stub[1] for row in table.rows]
    assert labels == ["No transform (RTN)", "No transform (GPTQ)", "Affine (RTN)", "Affine (GPTQ)"]


def test_no_transform_is_called_so_whatever_rounds_it():
    for weights, rounding in (("gptq", "GPTQ"), ("rtn", "RTN")):
        results = [result("W4A4K4V4", method, 8.0, weights=weights) for method in ("rtn", "affine")]
        table = wide_table(perplexity_frame(results, PLAIN), PLAIN)
        assert [row.stub[1] for row in table.rows] == ["No transform", "Affine"]
        assert f"Weights are rounded by {rounding}." in table.caption


def test_the_baselines_are_rows_with_the_papers_numbers_beside_them():
    baselines = ("smoothquant", "quarot", "spinquant", "ostquant", "flatquant")
    results = [result("W4A4K4V4", method, 8.0 + i) for i, method in enumerate((*baselines, "rotation"))]
    table = wide_table(perplexity_frame(results, PAPERS), PAPERS)
    assert [(row.stub[1], row.cells[1].text) for row in table.rows] == [
        ("SmoothQuant", "–"), ("QuaRot", "6.10"), ("SpinQuant", "5.96"), ("OSTQuant", "5.91"), ("FlatQuant", "5.78"),
        ("Rotation", "–"),
    ]  # fmt: skip
    assert bold(table) == {(("W4A4K4V4", "SmoothQuant"), 0)}
    assert table.protocol == (Entry("Rotation, in grey", "the fixed rotation of the paper's Table 1"),)


def test_settings_and_methods_keep_their_order_and_full_precision_leads():
    results = made()[::-1]
    frame = perplexity_frame(results, PLAIN)
    assert frame["setting"].unique().tolist() == ["W16A16K16V16", "W3A3K3V3", "W4A4K4V4"]
    assert frame.loc[1:3, "method"].tolist() == ["adaptive", "affine", "rtn"]


def test_absent_results_are_dashes():
    results = [result("W4A4K4V4", "affine", 8.0), result("W4A4K4V4", "rotation", 9.0, corpus="pydoc")]
    table = wide_table(perplexity_frame(results, PLAIN), PLAIN)
    assert [[cell.text for cell in row.cells] for row in table.rows] == [["8.00", "–"], ["–", "9.00"]]


def test_published_numbers_stand_beside_the_papers_own_models_only():
    presentation = Presentation(published_models={"llama2": "LLaMA-2-7B"}, published_corpora={"wiki": "WikiText-2"})
    methods = ("rtn", "flatquant", "affine", "rotation", "adaptive")
    results = [result("W3A3K3V3", m, 9.0, model=model) for m in methods for model in ("llama2", "tiny")]
    results += [result("W3A3K3V3", "affine", 9.0, model="llama2", corpus="pydoc")]
    frame = perplexity_frame(results, presentation)
    values = {(r.method, r.model, r.corpus): r.published for r in frame.itertuples() if not math.isnan(r.published)}
    assert values == {
        ("flatquant", "llama2", "wiki"): 7.54,
        ("rotation", "llama2", "wiki"): 7.99,
        ("adaptive", "llama2", "wiki"): 7.22,
    }


def test_the_papers_columns_are_grey_and_never_bold():
    presentation = PAPERS.model_copy(update={"labels": {"wiki": "WikiText-2", "tiny": "LLaMA-2-7B"}})
    table = wide_table(perplexity_frame(made(), presentation), presentation)
    assert [(c.headings, c.muted) for c in table.columns] == [
        (("WikiText-2 ↓", "LLaMA-2-7B"), False),
        (("paper: WikiText-2 ↓", "LLaMA-2-7B"), True),
    ]
    assert [row.cells[1].text for row in table.rows] == ["5.47", "–", "–", "5.61", "–", "–", "7.22"]
    assert all(i == 0 for _, i in bold(table)) and "Grey: the paper's own numbers." in table.caption
    assert [entry.key for entry in table.protocol] == ["Affine, in grey"]


@pytest.mark.parametrize(
    "presentation",
    [PLAIN, Presentation(published_models={"other": "LLaMA-2-7B"}, published_corpora={"wiki": "WikiText-2"}),
     Presentation(published_models={"tiny": "LLaMA-2-7B"})],
)  # fmt: skip
def test_a_model_of_ones_own_gets_no_columns_of_the_paper(presentation):
    table = wide_table(perplexity_frame(made(), presentation), presentation)
    assert len(table.columns) == 1 and "Grey" not in table.caption
    assert table.protocol == presentation.protocol


def test_an_unknown_published_name_is_refused():
    presentation = Presentation(published_models={"tiny": "LLaMA-7B"}, published_corpora={"wiki": "C4"})
    with pytest.raises(ValueError, match="no model 'LLaMA-7B'"):
        perplexity_frame(made(), presentation)


def test_duplicates_and_non_finite_values_are_refused():
    with pytest.raises(ValueError, match="two results for W4A4K4V4, affine, gptq, tiny, wiki, 0"):
        perplexity_frame([result("W4A4K4V4", "affine", 8.0)] * 2, PLAIN)
    with pytest.raises(ValueError, match="perplexity nan"):
        perplexity_frame([result("W4A4K4V4", "affine", math.nan)], PLAIN)


def test_a_file_that_is_no_result_is_named(tmp_path):
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"setting": "W4A4K4V4"}))
    with pytest.raises(ValueError, match=r"x.json is not a perplexity result: .*method: Field required"):
        write_table2([path], tmp_path / "table2.csv", PLAIN)
    assert not list(tmp_path.glob("table2.*"))


@pytest.mark.parametrize(
    ("value", "text"),
    [(5.6149, "5.61"), (99.994, "99.99"), (99.996, "100.0"), (999.96, "1000"), (9999.4, "9999"), (9999.6, "1.0e4"),
     (244925.3, "2.4e5"), (3e30, "3.0e30")],
)  # fmt: skip
def test_perplexities_print_sensibly(value, text):
    assert format_perplexity(value) == text


def test_a_model_that_was_measured_beyond_its_context_has_a_note(tmp_path):
    paths = []
    for context in (8, 16, None):
        given = {"model": f"model{context}", "window_length": 16, "max_position_embeddings": context}
        paths.append(tmp_path / f"{context}.json")
        paths[-1].write_text(json.dumps(made()[0] | given))
    (note,) = context_notes([*paths, paths[0]])
    assert note.here.startswith("model8 was made for windows of at most 8 tokens and is measured on 16: ")
