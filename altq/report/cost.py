"""The cost of each checkpoint: time and memory of its stages, from its history alone."""

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas

from altq.experiment.methods import METHODS, is_refined, unrefined
from altq.report.presentation import HEADINGS, Entry, Presentation, method_label
from altq.report.table import Cell, Column, Row, Table
from altq.report.table_files import write_table
from altq.runtime.lineage import assemblies

PLACE = ("model", "method", "setting", "weights", "seed")
STAGES = {
    "calibration": ("calibrate", "calibrate-end-to-end"),
    "states": ("states",),
    "assembly": ("assemble",),
    "refinement": ("refine",),
}
"""The commands of each stage; the table has the last one where a checkpoint is refined."""

MEASURES = {"seconds": "seconds", "processor_seconds": "processor_seconds", "memory_mb": "peak_memory"}
"""The measures of a stage, by ours, with the names in its record; a record's memory is in bytes, MB are 10^6."""

COLUMNS = (*PLACE, *(f"{stage}_{measure}" for stage in STAGES for measure in MEASURES))
_PLACE = re.compile(r".*/checkpoints/" + "/".join(f"(?P<{name}>[^/]+)" for name in PLACE[:-1]) + r"/seed(?P<seed>\d+)")
UNITS = {"seconds": "s", "processor_seconds": "CPU s", "memory_mb": "MB"}
READING = (
    Entry("s", "seconds by the clock, which other work on the machine prolongs"),
    Entry("CPU s", "seconds of processor time"),
    Entry("MB", "main memory at its peak"),
    Entry(
        "Calibration",
        "of the banks that the method reads, also where another method reads them; what a selection took stands in "
        "Tables 4 and 7",
    ),
    Entry("Stopped jobs", "count with their last process only"),
)


def cost_frame(records: Mapping[str | Path, Mapping[str, Any]]) -> pandas.DataFrame:
    """Tabulate a row for each checkpoint from the records of how they were made, by their folders.

    Calibration is summed over the banks that a method reads (memory: the highest), also where another method reads
    them too; it is 0 where there are none. States are the same in every row of a model and seed. ValueError for a
    folder that is not `checkpoints/<model>/<method>/<setting>/<weights>/seed<k>`, two of the same place, a record that
    says otherwise or misses a bank, and a figure that is no finite number or negative.
    """
    frame = pandas.DataFrame([_row(Path(path), record) for path, record in records.items()], columns=list(COLUMNS))
    key = ["model", "setting", "method", "weights", "seed"]
    if frame.duplicated(key).any():
        place = ", ".join(str(value) for value in frame.loc[frame.duplicated(key), key].iloc[0])
        raise ValueError(f"two checkpoints for {place}: the table has room for one")
    if not frame["method"].map(is_refined).any():
        frame = frame.drop(columns=[name for name in COLUMNS if name.startswith("refinement_")])
    order = pandas.DataFrame({name: pandas.factorize(frame[name])[0] for name in key})
    return frame.loc[order.sort_values(key, kind="stable").index].reset_index(drop=True)


def wide_table(frame: pandas.DataFrame, presentation: Presentation) -> Table:
    """Lay out a group of rows for each model and setting, with means over seeds; states are in the protocol."""
    stages = [stage for stage in STAGES if stage != "states" and f"{stage}_seconds" in frame]
    measures = [(stage, measure) for stage in stages for measure in MEASURES]
    several_roundings = frame["weights"].nunique() > 1
    groups = [
        tuple(
            Row(
                (presentation.label(model), setting, method_label(method, weights, several_roundings)),
                _cells(rows, measures),
            )
            for (method, weights), rows in of_setting.groupby(["method", "weights"], sort=False)
        )
        for (model, setting), of_setting in frame.groupby(["model", "setting"], sort=False)
    ]
    return Table(
        *HEADINGS["cost"],
        ("Model", "Setting", "Method"),
        tuple(Column((stage.capitalize(), UNITS[measure])) for stage, measure in measures),
        tuple(groups),
        _caption(frame),
        (*presentation.protocol, *_states(frame, presentation), *READING),
    )


def write_cost(records: Mapping[str | Path, Mapping[str, Any]], csv: str | Path, presentation: Presentation) -> None:
    """Write the tidy table as `csv`, and beside it the one to read as .md, .tex and .png with its protocol."""
    frame = cost_frame(records)
    write_table(frame, wide_table(frame, presentation), csv)


def _row(folder: Path, record: Mapping[str, Any]) -> list[Any]:
    model, method, setting, weights, seed = _place(folder)
    upstream, command = record.get("upstream", {}), "refine" if is_refined(method) else "assemble"
    if record.get("command") != command:
        raise ValueError(f"{folder} was not made by `altq {command}`; give checkpoint folders")
    history = {str(folder): record}
    if command == "refine":
        path = next(iter(assemblies(record["inputs"], upstream)), None)
        if path is None:
            raise ValueError(f"{folder} has no assembled checkpoint in its history; refine one")
        record = history[path] = upstream[path]
    options = record.get("options", {})
    rounding = options.get("rounding")
    held = options.get("setting"), rounding.get("weights") if isinstance(rounding, dict) else None
    if held != (setting, weights):
        raise ValueError(f"{folder} holds a checkpoint at {held[0]} with {held[1]}: it was moved; assemble it again")
    # What it was assembled from itself: a selection may have banks and states behind it, too.
    history |= {path: upstream.get(path, {}) for path in record.get("inputs", {})}
    figures: list[float] = []
    banks = METHODS[unrefined(method)].banks
    expected = {"calibration": None if banks is None else len(banks), "states": 1, "assembly": 1}
    expected["refinement"] = int(is_refined(method))
    for stage, commands in STAGES.items():
        results = {path: entry for path, entry in history.items() if entry.get("command") in commands}
        if expected[stage] is not None and len(results) != expected[stage]:
            raise ValueError(
                f"{folder} was made from {len(results)} results of {' or '.join(commands)}, where {method} takes "
                f"{expected[stage]}; assemble it again"
            )
        figures += _sum(folder, results)
    return [model, method, setting, weights, seed, *figures]


def _place(folder: Path) -> tuple[str, str, str, str, int]:
    """Read model, method, setting, weights and seed of a checkpoint from its path."""
    match = _PLACE.fullmatch(folder.absolute().as_posix())
    if not match or unrefined(match["method"]) not in METHODS:
        raise ValueError(
            f"{folder} is not of the form checkpoints/<model>/<method>/<setting>/<weights>/seed<k>, which says what it "
            f"is (methods: {', '.join(METHODS)})"
        )
    return (*match.groups()[:-1], int(match["seed"]))


def _sum(folder: Path, entries: Mapping[str, Mapping[str, Any]]) -> tuple[float, float, float]:
    """Sum seconds and processor seconds, and find the highest memory (MB)."""
    seconds, processor_seconds, memory = (
        [_figure(folder, path, entry=entry, name=name) for path, entry in entries.items()] for name in MEASURES.values()
    )
    return round(math.fsum(seconds), 3), round(math.fsum(processor_seconds), 3), round(max(memory, default=0) / 1e6, 1)


def _figure(folder: Path, path: str, entry: Mapping[str, Any], name: str) -> float:
    value = entry.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise ValueError(
            f"{folder}: the record of {path} has {name} {value}; only finite numbers from 0 on are tabulated"
        )
    return value


def _cells(rows: pandas.DataFrame, measures: Iterable[tuple[str, str]]) -> tuple[Cell, ...]:
    means = [rows[f"{stage}_{measure}"].mean() for stage, measure in measures]
    return tuple(Cell(f"{mean:.{1 if 0 < mean < 9.95 else 0}f}") for mean in means)


def _caption(frame: pandas.DataFrame) -> str:
    seeds = frame["seed"].nunique()
    means = f"Means over {seeds} seeds. " if seeds > 1 else ""
    return f"{means}A bank counts in every method that reads it; the states, which all share, are in the protocol."


def _states(frame: pandas.DataFrame, presentation: Presentation) -> Iterable[Entry]:
    """Say what the states took, once for all rows of a model and seed."""
    for model, rows in frame.drop_duplicates(["model", "seed"]).groupby("model", sort=False):
        yield Entry(
            f"States of {presentation.label(model)}",
            f"{rows['states_seconds'].mean():.0f} s ({rows['states_processor_seconds'].mean():.0f} CPU s, "
            f"{rows['states_memory_mb'].mean():.0f} MB), before calibration, once for all rows of a model and seed",
        )
