"""What a checkpoint cost is read from its history, and refused where the history does not add up."""

import math

import pandas
import pytest

from altq.cli import main
from altq.report.cost import COLUMNS, cost_frame, wide_table, write_cost
from altq.report.presentation import Entry, Presentation
from altq.report.table import to_terminal
from altq.report.table_files import read_tidy
from altq.runtime.files import read_json, sha256, write_json

STATES = {"command": "states", "seconds": 20.0, "processor_seconds": 10.0, "peak_memory": 500_000_000}
FIGURES = ("seconds", "processor_seconds", "memory_mb")


def bank(seconds, memory=0, command="calibrate"):
    return {"command": command, "seconds": seconds, "processor_seconds": seconds / 2, "peak_memory": memory}


def folder(method="affine", *, model="tiny", setting="W4A4K4V4", weights="gptq", seed=0):
    return f"results/checkpoints/{model}/{method}/{setting}/{weights}/seed{seed}"


def record(banks=None, *, setting="W4A4K4V4", weights="gptq", **changed):
    upstream = {f"results/bank/{name}": entry for name, entry in (banks or {}).items()}
    upstream |= {"results/models/tiny": {"source": "made"}, "results/states/tiny/seed0": STATES}
    return {
        "command": "assemble",
        "options": {"setting": setting, "rounding": {"weights": weights}},
        "seconds": 8.25, "processor_seconds": 7.5, "peak_memory": 123_456_789,
        "inputs": dict.fromkeys(upstream, "hash"), "upstream": upstream,
        **changed,
    }  # fmt: skip


@pytest.fixture
def records():
    affine, rotation = bank(100.25, 2_000_000_000), bank(50.5, 3_000_000_000)
    return {
        folder("rtn"): record(),
        folder("affine"): record({"affine": affine}),
        folder("adaptive"): record({"affine": affine, "rotation": rotation}),
        folder("spinquant"): record({"spinquant": bank(4.0, 1_000_000, "calibrate-end-to-end")}),
        folder("rtn", setting="W3A3K3V3"): record(setting="W3A3K3V3"),
    }


def figures(frame, stage):
    return {row["method"]: tuple(row[f"{stage}_{name}"] for name in FIGURES) for _, row in frame.iterrows()}


def test_banks_are_summed_and_their_memory_is_the_highest(records):
    frame = cost_frame(records)
    assert tuple(frame.columns) == tuple(name for name in COLUMNS if not name.startswith("refinement_"))
    assert figures(frame, "calibration") == {
        "rtn": (0, 0, 0),
        "affine": (100.25, 50.125, 2000),
        "adaptive": (150.75, 75.375, 3000),
        "spinquant": (4.0, 2.0, 1.0),
    }
    assert set(figures(frame, "states").values()) == {(20.0, 10.0, 500.0)}
    assert set(figures(frame, "assembly").values()) == {(8.25, 7.5, 123.5)}


def test_the_path_says_what_a_checkpoint_is():
    path = folder("affine", model="llama2-7b.v1", setting="W3A3K2V2", weights="rtn", seed=12)
    frame = cost_frame({path: record({"affine": bank(1)}, setting="W3A3K2V2", weights="rtn")})
    assert frame.iloc[0, :5].tolist() == ["llama2-7b.v1", "affine", "W3A3K2V2", "rtn", 12]


def test_settings_and_methods_keep_their_order(records):
    frame = cost_frame(dict(reversed(records.items())))
    assert frame["setting"].tolist() == ["W3A3K3V3", *["W4A4K4V4"] * 4]
    assert frame["method"].tolist() == ["rtn", "rtn", "spinquant", "adaptive", "affine"]


def test_the_table_to_read(records):
    table = wide_table(cost_frame(records), Presentation())
    shown = [(row.stub[1:], [cell.text for cell in row.cells[:3]]) for row in table.rows]
    assert shown == [
        (("W4A4K4V4", "No transform"), ["0", "0", "0"]),
        (("W4A4K4V4", "Affine"), ["100", "50", "2000"]),
        (("W4A4K4V4", "Adaptive"), ["151", "75", "3000"]),
        (("W4A4K4V4", "SpinQuant"), ["4.0", "2.0", "1.0"]),
        (("W3A3K3V3", "No transform"), ["0", "0", "0"]),
    ]
    assert [cell.text for cell in table.rows[0].cells[3:]] == ["8.2", "7.5", "124"]
    told = {entry.key: entry.here for entry in table.protocol}
    assert len(table.groups) == 2 and told["States of tiny"].startswith("20 s (10 CPU s, 500 MB)")
    assert "seeds" not in table.caption


def test_several_seeds_give_means():
    made = {folder(seed=seed): record({"affine": bank(seconds)}) for seed, seconds in enumerate((10, 30))}
    table = wide_table(cost_frame(made), Presentation())
    assert len(table.rows) == 1 and table.rows[0].cells[0].text == "20"
    assert table.caption.startswith("Means over 2 seeds.")


def test_the_csv_reads_back(records, tmp_path):
    csv = tmp_path / "cost.csv"
    write_cost(records, csv, Presentation(protocol=(Entry("seeds", "0"),)))
    pandas.testing.assert_frame_equal(pandas.read_csv(csv), cost_frame(records), check_dtype=False)
    assert "| Adaptive" in (tmp_path / "cost.md").read_text()
    assert "| seeds " in (tmp_path / "cost.protocol.md").read_text()
    shown = to_terminal(wide_table(read_tidy(csv), Presentation()), "cost.protocol.md")
    assert "Adaptive" in shown and "124" in shown


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.5, None, "8", True])
@pytest.mark.parametrize("name", ["seconds", "processor_seconds", "peak_memory"])
@pytest.mark.parametrize("place", ["assembly", "bank", "states"])
def test_what_is_no_figure_is_refused(place, name, value):
    made = record({"affine": bank(1.0)})
    paths = {"assembly": folder(), "bank": "results/bank/affine", "states": "results/states/tiny/seed0"}
    entry = made if place == "assembly" else made["upstream"][paths[place]]
    changed = {**entry, name: value}
    made = changed if place == "assembly" else {**made, "upstream": {**made["upstream"], paths[place]: changed}}
    with pytest.raises(ValueError, match=f"the record of {paths[place]} has {name} {value}; only finite"):
        cost_frame({folder(): made})


@pytest.mark.parametrize(
    "path",
    ["/", "results/checkpoints", "results/checkpoints/tiny/affine/W4A4K4V4/gptq", folder("afine"), folder(seed="x"),
     folder().replace("checkpoints", "bank"), f"{folder()}/more"],
)  # fmt: skip
def test_a_folder_elsewhere_is_refused(path):
    with pytest.raises(ValueError, match="is not of the form checkpoints/<model>/<method>/"):
        cost_frame({path: record({"affine": bank(1.0)})})


@pytest.mark.parametrize(
    ("path", "made", "message"),
    [
        (folder(), {}, "was not made by `altq assemble`"),
        (folder(), {**STATES}, "was not made by `altq assemble`"),
        (folder(), record({"affine": bank(1)}, setting="W3A3K3V3"), "holds a checkpoint at W3A3K3V3 with gptq"),
        (folder(weights="rtn"), record({"affine": bank(1)}), "holds a checkpoint at W4A4K4V4 with gptq"),
        (folder(), record(), "made from 0 results of calibrate or calibrate-end-to-end, where affine takes 1"),
        (folder("adaptive"), record({"affine": bank(1)}), "made from 1 results of calibrate .*adaptive takes 2"),
        (folder("rtn"), record({"affine": bank(1)}), "where rtn takes 0"),
        (folder("rtn"), record(upstream={}), "made from 0 results of states, where rtn takes 1"),
    ],
)
def test_a_history_that_does_not_add_up_is_refused(path, made, message):
    with pytest.raises(ValueError, match=message):
        cost_frame({path: made})


def test_a_refined_checkpoint_costs_its_assembly_and_its_refinement(records):
    assembled = folder("adaptive")
    inner = records[assembled]
    upstream = {**inner["upstream"], assembled: {name: inner[name] for name in inner if name != "upstream"}}
    refinement = {
        "command": "refine", "options": {"method": "adaptive_refined"}, "upstream": upstream,
        "inputs": {"results/models/tiny": "hash", assembled: "hash"},
        "seconds": 500.0, "processor_seconds": 400.0, "peak_memory": 2_500_000_000,
    }  # fmt: skip
    frame = cost_frame(records | {folder("adaptive_refined"): refinement})
    for stage in ("calibration", "states", "assembly"):
        of_stage = figures(frame, stage)
        assert of_stage["adaptive_refined"] == of_stage["adaptive"]
    assert figures(frame, "refinement")["adaptive_refined"] == (500, 400, 2500)
    assert figures(frame, "refinement")["adaptive"] == (0, 0, 0)
    assert "Adaptive, refined" in to_terminal(wide_table(frame, Presentation()), "cost.protocol.md")
    assert not [name for name in cost_frame(records) if name.startswith("refinement")]
    with pytest.raises(ValueError, match="was not made by `altq assemble`"):
        cost_frame({assembled: refinement})
    with pytest.raises(ValueError, match="was not made by `altq refine`"):
        cost_frame({folder("adaptive_refined"): inner})


def test_two_checkpoints_of_one_place_are_refused():
    made = {folder("rtn"): record(), f"/elsewhere/{folder('rtn')}": record()}
    with pytest.raises(ValueError, match="two checkpoints for tiny, W4A4K4V4, rtn, gptq, 0"):
        cost_frame(made)


def test_the_command_reads_checkpoint_folders(records, tmp_path, capsys):
    folders = [tmp_path / path for path in records]
    for path, made in zip(folders, records.values(), strict=True):
        write_json(path / "provenance.json", made)
    csv = tmp_path / "cost.csv"
    assert main(["cost", "--checkpoints", *map(str, folders), "--output", str(csv)]) == 0
    written = pandas.read_csv(csv)
    assert written["calibration_seconds"].tolist() == [0, 100.25, 150.75, 4, 0]
    history = read_json(csv.with_suffix(".json"))["provenance"]
    assert history["command"] == "cost" and set(history["inputs"].values()) == {
        sha256(path / "provenance.json") for path in folders
    }

    csv.unlink()
    (folders[0] / "provenance.json").unlink()
    assert main(["cost", "--checkpoints", *map(str, folders), "--output", str(csv)]) == 1
    assert "it is not complete; make it again" in capsys.readouterr().err and not csv.exists()
