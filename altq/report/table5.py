"""Table 5: the speed of the kernels that ship, tidy and as the paper prints it: speed-up by length, prefill and decode."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas

from altq.report.perplexity import Presentation, write_table
from altq.report.published import published
from altq.report.table import Cell, Column, Row, Table
from altq.runtime.files import read_json

TITLE = "Speed-up of a decoder layer over floating point (higher is better)."
CPU = "CPU"
PAPERS = {"prefill": "table5a", "decode": "table5b"}
PAPERS_METHODS = {"INT4": "int4", "QuaRot": "quarot", "FlatQuant": "flatquant", "adaptive": "adaptive"}
PAPERS_SETTING = "W4A4K4V4"
GPU_LENGTHS = {"prefill": (2048, 4096, 8192), "decode": (256, 512, 1024, 2048)}
"""What the paper measures on a GPU: these columns stay empty where there is none."""
GPU_SHAPE = "llama-2-7b"
LABELS = {"INT4": "INT4, no transform", "adaptive": "Adaptive"}


class Place(NamedTuple):
    """A column: kind of device, phase, and tokens of a prefill or the length of the cache before a decoded token."""

    device: str
    phase: str
    length: int

    @property
    def headings(self) -> tuple[str, str]:
        what = "prefill, tokens" if self.phase == "prefill" else "decode, tokens in cache"
        return f"{self.device}: {what}", f"{self.length}"


def write_table5(paths: Iterable[str | Path], csv: str | Path, presentation: Presentation) -> None:
    """Read the measurements and write `csv`, and beside it the table to read as .md, .tex and .png."""
    frame = table5_frame(paths)
    write_table(frame, wide_table(frame, presentation), csv)


def table5_frame(paths: Iterable[str | Path]) -> pandas.DataFrame:
    """A row for each case that was timed, as `altq benchmark` wrote it, with `machine`: what it was measured on.

    ratio: to the first floating-point baseline of its group; ratio_to_fastest: to the fastest of them; limit_ratio: what
    the machine's own limit allows over that first baseline. ValueError for a time that is none.
    """
    frames = []
    for path in map(Path, paths):
        frame = pandas.read_csv(path)
        record = read_json(path.with_suffix(".json"))
        frames.append(frame.assign(machine=_machine(record)))
    frame = pandas.concat(frames, ignore_index=True)
    for name in ("median_seconds", "ratio"):
        if not all(math.isfinite(value) and value > 0 for value in frame[name]):
            raise ValueError(f"a measurement has a {name} that is no positive number; measure again")
    groups = frame.groupby(["machine", "phase", "shape", "tokens", "kv_length"], sort=False)["median_seconds"]
    baselines = frame["median_seconds"].where(frame["method"].str.startswith("fp"))
    fastest = baselines.groupby(
        [frame[name] for name in ("machine", "phase", "shape", "tokens", "kv_length")]
    ).transform("min")
    frame["ratio_to_fastest"] = fastest / frame["median_seconds"]
    frame["limit_ratio"] = groups.transform("first") / frame["limit_seconds"]
    return frame


def _machine(record: Mapping[str, Any]) -> str:
    """What the rows of a file were measured on."""
    if "gpu" in record:
        return f"{record['gpu']} ({record['clocks']}), torch {record['torch']}, triton {record['triton']}"
    threads = f"{record['threads']} thread" + ("s" if record["threads"] > 1 else "")
    return f"{record['cpu']}, {threads}, {record['variant']} kernels, torch {record['torch']}"


def wide_table(frame: pandas.DataFrame, presentation: Presentation) -> Table:
    """A group of rows for each layer; a row for each method; single linear layers are in the CSV file alone."""
    layers = frame.loc[frame["phase"].isin(list(GPU_LENGTHS))]
    gpus = [device for device in layers["device"].unique() if device != CPU] or ["GPU"]
    places = [Place(gpu, phase, length) for gpu in gpus for phase in GPU_LENGTHS for length in GPU_LENGTHS[phase]]
    places += sorted({_place(row) for row in layers.itertuples() if row.device == CPU}, key=_by_phase)
    papers = [(phase, length) for phase in GPU_LENGTHS for length in GPU_LENGTHS[phase]]
    columns = [Column(place.headings) for place in places]
    columns += [
        Column((f"paper, A100: {Place('', phase, length).headings[0][2:]}", f"{length}"), muted=True)
        for phase, length in papers
    ]
    groups = []
    for shape, of_shape in layers.groupby("shape", sort=False):
        rows = []
        for method, of_method in of_shape.groupby("method", sort=False):
            measured = {_place(row): row for row in of_method.itertuples()}
            cells = [_cell(measured.get(place)) for place in places]
            rows.append(
                Row((shape, LABELS.get(method, method)), (*cells, *(_paper(shape, method, *p) for p in papers)))
            )
        groups.append(tuple(rows))
    return Table("Table 5", TITLE, ("Layer", "Method"), tuple(columns), tuple(groups), _notes(frame, presentation))


def _place(row) -> Place:
    return Place(row.device, row.phase, row.tokens if row.phase == "prefill" else row.kv_length)


def _by_phase(place: Place) -> tuple[int, int]:
    return list(GPU_LENGTHS).index(place.phase), place.length


def _cell(row) -> Cell:
    """The speed-up and the most that the machine allows; of a baseline its milliseconds, too."""
    if row is None:
        return Cell()
    if row.method.startswith("fp"):
        milliseconds = 1e3 * row.median_seconds
        return Cell(f"{row.ratio:.2f} ({milliseconds:.{3 if milliseconds < 1000 else 4}g} ms)")
    limit = "" if pandas.isna(row.limit_ratio) else f" of {row.limit_ratio:.1f}"
    return Cell(f"{row.ratio:.2f}{limit}")


def _paper(shape: str, method: str, phase: str, length: int) -> Cell:
    if shape != GPU_SHAPE or method not in PAPERS_METHODS:
        return Cell()
    entry = published(PAPERS[phase], PAPERS_SETTING, PAPERS_METHODS[method], "LLaMA-2-7B", f"{length}")
    return Cell() if entry is None else Cell(f"{entry.value:g}")


def _notes(frame: pandas.DataFrame, presentation: Presentation) -> tuple[str, ...]:
    machines = frame.drop_duplicates("machine")
    measured = "; ".join(f"{row.device}: {row.machine}" for row in machines.itertuples())
    rounds: Sequence[int] = sorted(frame["rounds"].unique())
    notes = [
        *presentation.notes,
        f"Measured on {measured}. Cases of a column are timed by turns for {rounds[-1]} rounds after a warm-up; a "
        "speed-up is the median of the rounds' own ratios to the first row. “of” says what the machine's limit would allow "
        "over that row: the slower of reading and of multiplying, for a CPU of its linear layers alone at the rates that "
        "were measured, for a GPU of the whole layer at those of its data sheet. The CSV file has medians, quartiles and "
        "single linear layers.",
    ]
    if CPU in set(frame["device"]):
        notes.append(
            "No CPU multiplies 4-bit integers: codes are multiplied as bytes, so that W4A4 and W4A8 take the same time; "
            "4-bit weights save what is read from memory. One thread of a CPU is timed in processor time; keys and "
            "values are quantized there and kept as floats."
        )
    if set(frame["device"]) == {CPU}:
        notes.append("No GPU was at hand: its columns are empty, and nothing in them is estimated.")
    notes.append("Columns headed “paper” are the paper's own numbers, over FP16 on an A100, for orientation only.")
    return tuple(notes)
