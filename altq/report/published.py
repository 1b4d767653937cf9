"""The paper's published numbers (Tables 1 to 5), as printed, and the one that stands beside each row of ours."""

from functools import cache
from pathlib import Path
from typing import NamedTuple

from altq.runtime.files import read_json

PERPLEXITY_CORPORA = ("WikiText-2", "C4")

COUNTERPARTS = {
    "rotation": ("table1", "rotation", "fixed rotation"),
    "best_random": ("table1", "best_random", "best random selection"),
    "learned": ("table4", "search", "learned selection"),
}
"""The table, the row and its name that stand beside a method of ours where it is not Table 2's row of the same name.

`affine` has none: it is FlatQuant's transform with our recipe, and the paper's FlatQuant stands beside `flatquant`.
"""


def counterpart_name(method: str) -> str:
    """Name the counterpart of a method of COUNTERPARTS, e.g. "the fixed rotation of the paper's Table 1"."""
    table, _, name = COUNTERPARTS[method]
    return f"the {name} of the paper's {table.replace('table', 'Table ')}"


class Published(NamedTuple):
    """A printed number, with its standard deviation where it is a mean."""

    value: float
    std: float | None = None


@cache
def _tables() -> dict[str, dict[tuple[str, str, str, str], Published]]:
    tables = {}
    for name, table in read_json(Path(__file__).with_name("published.json"))["tables"].items():
        entries = tables[name] = {}
        for row in table["rows"]:
            stds = row.get("stds", [None] * len(table["columns"]))
            for column, value, std in zip(table["columns"], row["values"], stds, strict=True):
                if value is not None:
                    entries[row["setting"], row["method"], row["model"], column] = Published(value, std)
    return tables


def published(table: str, setting: str, method: str, model: str, column: str) -> Published | None:
    """Look up one printed number, e.g. of ("table2", "W3A3K2V2", "flatquant", "LLaMA-2-7B", "C4"); None without one.

    `column` is the corpus, task, metric or length that heads the column. Full precision is method `full` at setting
    W16A16K16V16.
    """
    return _tables()[table].get((setting, method, model, column))


def published_models() -> tuple[str, ...]:
    """List the models that Table 2 reports."""
    return tuple(dict.fromkeys(model for _, _, model, _ in _tables()["table2"]))


def published_perplexity(setting: str, method: str, model: str, corpus: str, table: str = "table2") -> float | None:
    """Look up the paper's perplexity for the counterpart of one of our methods on its model and corpus, or None.

    In Table 1 every row is its own counterpart.

    ValueError for a model or corpus that the paper does not report.
    """
    for kind, name, names in (("model", model, published_models()), ("corpus", corpus, PERPLEXITY_CORPORA)):
        if name not in names:
            raise ValueError(
                f"the paper reports no {kind} {name!r}; `published` must be one of {', '.join(names)}, or absent"
            )
    counterpart = method
    if table == "table2":
        table, counterpart, _ = COUNTERPARTS.get(method, ("table2", method, ""))
    entry = published(table, setting, method=counterpart, model=model, column=corpus)
    return entry.value if entry else None
