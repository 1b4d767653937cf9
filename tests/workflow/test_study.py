"""The study of selections on the made model: every table and figure, and the same files however many cores."""

import csv
import html
import json
import math
import re
import shutil

import pytest

from altq.report.presentation import HEADINGS

pytestmark = pytest.mark.slow

POLICIES = ("affine", "oracle", "probe", "predicted", "best_random")
SETTING = "W3A3K2V2"


@pytest.fixture(scope="module")
def study(smoke, project, tmp_path_factory, snakemake):
    """The results of `study`, made on two cores from a copy of the smoke experiment, whose banks it reads."""
    folder = tmp_path_factory.mktemp("study") / "run"
    shutil.copytree(smoke.folder, folder)
    return run(project, folder, snakemake, "2", "study")


def run(project, folder, snakemake, cores, *targets):
    smoke = project / "configs" / "smoke.yaml"
    result = snakemake("--configfile", smoke, "--cores", cores, *targets, folder=folder)
    assert result.returncode == 0, (result.stdout + result.stderr)[-5000:]
    return folder / "results"


def rows_of(study, name):
    with open(study / name, newline="") as file:
        return list(csv.DictReader(file))


def test_table_1_has_every_selection(study):
    methods = [row["method"] for row in rows_of(study, "table1.csv")]
    assert methods == ["full", "affine", "rotation", "random0", "random1", "random2"]
    for suffix in (".md", ".tex", ".png", ".json", ".protocol.md", ".protocol.html"):
        assert (study / "table1.csv").with_suffix(suffix).stat().st_size > 0


def test_table_4_counts_the_agreement_and_the_time(study):
    rows = {row["method"]: row for row in rows_of(study, "table4.csv")}
    assert rows.keys() == {"learned", "adaptive"}
    learned, heuristic = (
        json.loads((study / "selections/made" / path).read_text())["kinds"]
        for path in (f"{SETTING}/seed0/learned.json", "heuristic.json")
    )
    same = [a == b for a, b in zip(learned, heuristic, strict=True)]
    for row in rows.values():
        assert int(row["agreement"]) == sum(same) and int(row["agreement_ffn"]) == sum(same[1::2])
    searched = json.loads((study / f"scores/made/{SETTING}/seed0/learned/scores.json").read_text())["provenance"]
    assert float(rows["learned"]["selection_seconds"]) >= searched["processor_seconds"]
    assert float(rows["adaptive"]["calibration_seconds"]) > 0


def test_table_6_evaluates_each_distinct_selection_once(study):
    rows = {row["point"]: row for row in rows_of(study, "table6.csv")}
    assert list(rows) == ["grid0", "grid1", "grid2", "grid3", "learned"]
    # beta 0.1 / 0.9 and shares 0.7 / 0.5 are the configured heuristic itself.
    assert rows["grid0"]["same_as"] == rows["grid1"]["same_as"] == "heuristic"
    evaluated = {path.name for path in (study / "perplexity/made").iterdir()}
    expected = {name for name, row in rows.items() if not row["same_as"] and name != "learned"}
    assert {name for name in evaluated if name.startswith("grid")} == expected


def test_table_7_compares_every_policy_over_three_seeds(study):
    rows = rows_of(study, "table7.csv")
    assert [row["method"] for row in rows] == list(POLICIES)
    for row in rows:
        assert row["num_seeds"] == "3"
        low, value, high = (float(row[name]) for name in ("perplexity_low", "perplexity", "perplexity_high"))
        assert 1 < low <= value <= high and math.isfinite(high)
        if row["method"] != "affine":
            low, high = float(row["difference_low"]), float(row["difference_high"])
            assert low <= float(row["difference"]) <= high
            claimed = "1" if high < 0 else "-1" if low > 0 else "0"
            assert row["better"] == ("" if row["method"] == "best_random" else claimed)


def test_the_curve_of_the_search_is_kept(study):
    rows = rows_of(study, f"scores/made/{SETTING}/seed0/learned/curve.csv")
    assert len(rows) == 8 * 3  # sublayers, steps and the end
    for row in rows:
        assert float(row["pi_affine"]) + float(row["pi_rotation"]) == pytest.approx(1)


def test_the_oracle_reads_the_banks_and_the_probe_its_own(study):
    for policy, steps in (("oracle", 2), ("probe", 1)):
        made = json.loads((study / f"scores/made/{SETTING}/seed0/{policy}/scores.json").read_text())["provenance"]
        taken = {r["options"]["recipe"]["steps"] for r in made["upstream"].values() if r.get("command") == "calibrate"}
        assert taken == {steps}
        tokens = made["upstream"]["results/tokens/made/pydoc/held_out-seed0.npy"]
        assert "without a token of the 8 calibration windows" in tokens["windows"]


def test_the_figures_have_a_point_for_each_sublayer(study):
    assert len(rows_of(study, "figure1.csv")) == len(rows_of(study, "figure2.csv")) == 8
    assert len(rows_of(study, "figure2-correlation.csv")) == 2
    for name in ("figure1.pdf", "figure1.png", "figure2.pdf", "figure2.png"):
        assert (study / name).stat().st_size > 5000


def test_policies_that_measure_select_a_kind_for_each_sublayer(study):
    for policy in ("learned", "oracle", "probe", "predicted"):
        selection = json.loads((study / f"selections/made/{SETTING}/seed0/{policy}.json").read_text())
        assert selection["policy"] == policy and len(selection["kinds"]) == 8
        assert set(selection["kinds"]) <= {"affine", "rotation"}


@pytest.mark.parametrize("number", [1, 4, 6, 7])
def test_the_tables_are_shown(study, altq, number):
    shown = altq("show", f"results/table{number}.csv", folder=study.parent)
    assert shown.returncode == 0, shown.stderr
    assert f"Table {number}" in shown.stdout and SETTING in shown.stdout


def test_one_core_gives_the_same_files(study, project, tmp_path, snakemake):
    checkpoint, scores = f"checkpoints/made/learned/{SETTING}/gptq/seed0", f"scores/made/{SETTING}/seed0"
    wanted = (f"results/{checkpoint}/quantization.json", "results/figure2.pdf")
    alone = run(project, tmp_path, snakemake, "1", *wanted)
    parts = [f"{checkpoint}/{path.name}" for path in (study / checkpoint).glob("*.safetensors")]
    assert len(parts) == 9
    same = [f"{checkpoint}/quantization.json", f"{scores}/learned/curve.csv", *parts]
    for name in [*same, "figure2.pdf", "figure2.png", "figure2.csv"]:
        assert (alone / name).read_bytes() == (study / name).read_bytes(), name
    # Besides their own times and places:
    for path, of in (
        (f"{scores}/oracle/scores.json", "values"),
        (f"selections/made/{SETTING}/seed0/learned.json", "decisions"),
    ):
        first, second = (json.loads((folder / path).read_text())[of] for folder in (alone, study))
        assert first == second


@pytest.fixture(scope="module")
def page(study, project, tmp_path_factory, snakemake):
    """What the page of `snakemake --report` holds: (its text, results by path, the first page as it is shown)."""
    smoke, path = project / "configs" / "smoke.yaml", tmp_path_factory.mktemp("report") / "report.html"
    made = snakemake("--configfile", smoke, "--report", path, "all", "study", folder=study.parent)
    assert made.returncode == 0, (made.stdout + made.stderr)[-5000:]
    text = path.read_text(encoding="utf-8")
    decode = json.JSONDecoder().raw_decode
    results, first = (
        decode(text, re.search(f'var {name} = (?=[{{"])', text).end())[0] for name in ("results", "workflow_desc")
    )
    return text, results, html.unescape(re.sub(r"<[^>]+>", "", first))


def test_the_report_has_every_table_and_figure_under_a_readable_name_with_its_protocol(page, project):
    _, results, _ = page
    for name in ("table1", "table2", "table4", "table6", "table7", "cost", "figure1", "figure2"):
        files = {"image": f"{name}.png", "protocol": f"{name}.protocol.html"}
        files |= {} if name.startswith("figure") else {"numbers (CSV)": f"{name}.csv"}
        caption = (project / "rules" / "captions" / f"{name}.rst").read_text(encoding="utf-8")
        words = " ".join(re.sub(r"[*`]", "", caption.splitlines()[0]).split()[:6])
        for form, file in files.items():
            result = results[f"results/{file}"]
            kind = "figure" if name.startswith("figure") else "table"
            assert result["labels"] == {kind: str(HEADINGS[name]).removesuffix("."), "as": form}
            assert words in result["caption"], f"the caption of {file} is not in the report"


def test_the_report_opens_with_what_it_is_and_where_the_tables_are(page):
    text, _, first = page
    assert "A transformation for each layer of a quantized model" in first
    assert "The run quantizes made to W3A3K2V2" in " ".join(first.split())
    assert "its numbers mean nothing" in first
    for name in ("table1", "table2", "cost", "figure2"):
        assert str(HEADINGS[name]).removesuffix(".") in first
        assert f"showResultInfo('results/{name}.png')" in text
