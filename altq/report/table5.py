"""Table 5: the speed of the kernels that ship, tidy and as the paper prints it: by length, phase and device."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas

from altq.report.perplexity import PAPERS_NUMBERS
from altq.report.presentation import HEADINGS, Entry, Presentation
from altq.report.published import published
from altq.report.table import Cell, Column, Row, Table
from altq.report.table_files import write_table
from altq.runtime.documents import read_described

NUMBERS = ("tokens", "kv_length", "median_seconds", "ratio", "limit_seconds")
WORDS = ("device", "phase", "shape", "method")
REMEDY = "measure again"
CPU = "CPU"
PAPERS = {"prefill": "table5a", "decode": "table5b"}
PAPERS_METHODS = {"INT4": "int4", "QuaRot": "quarot", "FlatQuant": "flatquant", "adaptive": "adaptive"}
PAPERS_SETTING = "W4A4K4V4"
GPU_LENGTHS = {"prefill": (2048, 4096, 8192), "decode": (256, 512, 1024, 2048)}
"""The lengths that the paper measures on a GPU: their columns stay empty where there is none."""
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
    """Read the measurements; write `csv`, and beside it the table as .md, .tex and .png with its protocol."""
    frame = table5_frame(paths)
    write_table(frame, wide_table(frame, presentation), csv)


def table5_frame(paths: Iterable[str | Path]) -> pandas.DataFrame:
    """Tabulate each case that was timed, as `altq benchmark` wrote it, with the `machine` it was measured on.

    ratio: to the first floating-point baseline of its group; ratio_to_fastest: to the fastest of them; limit_ratio:
    what the machine's own limit allows over that first baseline. ValueError for a time that is none.
    """
    frames = []
    for path in map(Path, paths):
        record = read_described(path.with_suffix(".json"), dict[str, Any], REMEDY)
        frames.append(_measurements(path).assign(machine=_machine(record, path.with_suffix(".json"))))
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


def _measurements(path: Path) -> pandas.DataFrame:
    """Read the rows of a file; ValueError for one that cannot be read, lacks a column, or has words for numbers."""
    try:
        frame = pandas.read_csv(path)
        numbers = frame[list(NUMBERS)].apply(pandas.to_numeric)
    except (ValueError, KeyError, OSError) as error:
        raise ValueError(f"{path} holds no measurements ({error}); {REMEDY}") from error
    if missing := set(WORDS) - set(frame):
        raise ValueError(f"{path} holds no measurements ({', '.join(sorted(missing))} missing); {REMEDY}")
    return frame.assign(**numbers)


def _machine(record: Mapping[str, Any], path: Path) -> str:
    """Name the machine that the rows of a file were measured on; ValueError where its record does not say it."""
    needed = ("gpu", "clocks", "torch", "triton") if "gpu" in record else ("threads", "cpu", "variant", "torch")
    if missing := [name for name in needed if name not in record]:
        raise ValueError(f"{path} does not say the {', '.join(missing)} of the machine; {REMEDY}")
    if "gpu" in record:
        return f"{record['gpu']} ({record['clocks']}), torch {record['torch']}, triton {record['triton']}"
    threads = f"{record['threads']} thread" + ("s" if record["threads"] != 1 else "")
    return f"{record['cpu']}, {threads}, {record['variant']} kernels, torch {record['torch']}"


def wide_table(frame: pandas.DataFrame, presentation: Presentation) -> Table:
    """Lay out a group of rows for each layer, a row for each method; linear layers are in the CSV file alone."""
    layers = frame.loc[frame["phase"].isin(list(GPU_LENGTHS))]
    gpus = [device for device in layers["device"].unique() if device != CPU] or ["GPU"]
    places = [Place(gpu, phase, length) for gpu in gpus for phase in GPU_LENGTHS for length in GPU_LENGTHS[phase]]
    places += sorted({_place(row) for row in layers.itertuples() if row.device == CPU}, key=_by_phase)
    papers = []
    if GPU_SHAPE in set(layers["shape"]):
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
    caption, protocol = _caption(frame, bool(papers)), (*presentation.protocol, *_protocol(frame))
    return Table(*HEADINGS["table5"], ("Layer", "Method"), tuple(columns), tuple(groups), caption, protocol)


def _place(row: Any) -> Place:
    """The column of a row of the tidy table, as `itertuples` gives it."""
    return Place(row.device, row.phase, row.tokens if row.phase == "prefill" else row.kv_length)


def _by_phase(place: Place) -> tuple[int, int]:
    return list(GPU_LENGTHS).index(place.phase), place.length


def _cell(row: Any | None) -> Cell:
    """Print the speed-up and the most that the machine allows; of a baseline its milliseconds, too."""
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
    entry = published(
        PAPERS[phase], PAPERS_SETTING, method=PAPERS_METHODS[method], model="LLaMA-2-7B", column=f"{length}"
    )
    return Cell() if entry is None else Cell(f"{entry.value:g}")


def _caption(frame: pandas.DataFrame, with_papers: bool) -> str:
    sentences = ["Higher is better; “of”: what the machine's limit would allow."]
    if set(frame["device"]) == {CPU}:
        sentences.append("No GPU was at hand: its columns are empty, and nothing in them is estimated.")
    return " ".join([*sentences, *([PAPERS_NUMBERS] if with_papers else [])])


def _protocol(frame: pandas.DataFrame) -> Iterable[Entry]:
    """Say on what, how and against which limit the kernels were timed."""
    for row in frame.drop_duplicates("machine").itertuples():
        yield Entry(row.device, row.machine, "an A100")
    yield Entry("kernels.rounds", f"{frame['rounds'].max()} rounds, in which the cases of a column are timed by turns")
    yield Entry(
        "Speed-up",
        "the median of the rounds' own ratios to the first row, after a warm-up; the CSV file has medians, quartiles "
        "and single linear layers",
        "over FP16",
    )
    yield Entry(
        "Limit",
        "what the slower of reading and multiplying would allow over the first row: for a CPU of its linear layers "
        "alone at the rates that were measured, for a GPU of the whole layer at those of its data sheet",
    )
    if CPU in set(frame["device"]):
        yield Entry(
            "Codes on a CPU",
            "multiplied as bytes, since no CPU multiplies 4-bit integers: W4A4 and W4A8 take the same time, and 4-bit "
            "weights save what is read from memory",
        )
        yield Entry("Clock of a CPU", "processor time where it is one thread")
        yield Entry("Keys and values on a CPU", "quantized and kept as floats")
