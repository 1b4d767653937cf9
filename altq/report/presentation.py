"""How results are presented: the printed names of models, texts and methods, and the protocol of a table or figure.

Imports nothing heavy, since the workflow reads it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field

from altq.experiment.methods import METHODS, method_of, unrefined
from altq.experiment.section import Section
from altq.experiment.setting import FULL
from altq.runtime.files import write_json

ABSENT = "–"
SAME = "the same"
MINUS = "−"
ROUNDINGS = {"rtn": "RTN", "gptq": "GPTQ"}


class Heading(NamedTuple):
    """The paper's name of a table or figure, or ours where it has none, and its title."""

    name: str
    title: str

    def __str__(self) -> str:
        return f"{self.name}. {self.title}"


HEADINGS = {
    "table1": Heading("Table 1", "One kind everywhere against random selections."),
    "table2": Heading("Table 2", "Perplexity (lower is better) of quantized models."),
    "table3": Heading("Table 3", "Zero-shot accuracy in per cent of quantized models."),
    "table4": Heading("Table 4", "The learned selection against the heuristic."),
    "table5": Heading("Table 5", "Speed-up of a decoder layer over floating point."),
    "table6": Heading("Table 6", "The heuristic at other values of beta and L."),
    "table7": Heading("Table 7", "Every policy against affine everywhere, over seeds."),
    "cost": Heading("Cost", "Time and memory that each quantized model took."),
    "figure1": Heading("Figure 1", "Kurtosis of each layer and the kind that the search chose."),
    "figure2": Heading("Figure 2", "Gain of rotation over affine against kurtosis, by sublayer."),
}
"""The tables and figures, by the names of their files."""


class Entry(NamedTuple):
    """One row of a protocol.

    key: the option's key in the configuration, or a term that the table uses. here: its value or meaning here. paper:
    the paper's, or of a baseline its authors'; ABSENT where they say nothing.
    """

    key: str
    here: str
    paper: str = ABSENT

    @property
    def departs(self) -> bool:
        """Whether the paper, or a baseline's authors, have it otherwise."""
        return self.paper not in (ABSENT, SAME, self.here)


class Presentation(Section):
    """Protocol that results were made by, and the names that they are printed with: what they do not say themselves."""

    protocol: tuple[Entry, ...] = Field((), description="the protocol: [key, here, paper] for each of its rows")
    labels: dict[str, str] = Field({}, description="printed names of models and corpora, by ours")
    published_models: dict[str, str] = Field({}, description="the paper's names of models, by ours")
    published_corpora: dict[str, str] = Field({}, description="the paper's names of corpora, by ours")

    def label(self, name: str) -> str:
        """The printed name of a model or corpus."""
        return self.labels.get(name, name)


def write_presented(output: Path, presentation: Presentation, record: Mapping[str, Any]) -> None:
    """Write, beside a table or figure, a .json with its presentation and the provenance `record`."""
    write_json(output.with_suffix(".json"), {"presentation": presentation.model_dump(), "provenance": record})


def method_label(method: str, weights: str, several_roundings: bool) -> str:
    """The printed name of a method, with its rounding of weights where the rows of a table differ in it."""
    if method == FULL:
        return "Full precision"
    label = method_of(method).label if unrefined(method) in METHODS else method
    return f"{label} ({ROUNDINGS.get(weights, weights)})" if several_roundings else label


def numeral(value: float, form: str) -> str:
    """A number in a format such as `+.1f`, its minus sign a minus sign (U+2212) and not a hyphen."""
    return format(value, form).replace("-", MINUS)
