"""Upper bounds of options, each with its reason. Imports nothing heavy, since the workflow reads it.

A number without a bound is a typing error away from a job that fills a disk, never ends, or dies in a library.
"""

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema


@dataclass(frozen=True)
class AtMost:
    """Upper bound of a number, or of the length of a text or list, with its reason."""

    limit: int | float
    reason: str

    def check(self, value: Any) -> Any:
        """Return the value; ValueError, with the reason, for one above the bound."""
        if hasattr(value, "__len__"):
            if len(value) > self.limit:
                raise ValueError(f"has a length of {len(value):,}, and {self.limit:,} is the most: {self.reason}")
        elif value > self.limit:
            raise ValueError(f"Input should be at most {self.limit:,}: {self.reason}")
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        described = handler(schema)
        key = {"string": "maxLength", "array": "maxItems"}.get(str(described.get("type")), "maximum")
        return described | {key: self.limit}


Seed = Annotated[int, Field(ge=0), AtMost(2**63 - 1, "the generators take seeds of 63 bits")]
Seeds = Annotated[list[Seed], AtMost(1000, "every bank, checkpoint and result is made for each")]
NumBlocks = Annotated[int, Field(ge=1), AtMost(10_000, "models have hundreds of blocks at most")]
Size = Annotated[int, Field(ge=1), AtMost(2**24, "no layer of a model is as wide")]
NumWindows = Annotated[int, Field(ge=1), AtMost(1_000_000, "the states of every window are kept on disk")]
WindowLength = Annotated[int, Field(ge=2), AtMost(2**20, "no model known here reads a longer text")]
NumSteps = Annotated[int, Field(ge=0), AtMost(1_000_000, "they would take years; recipes take hundreds")]
Rate = Annotated[float, Field(gt=0), AtMost(100, "one step would leave every start; recipes have 0.001 to 1.5")]
Factor = Annotated[float, Field(ge=0), AtMost(1_000_000, "nothing else would count beside it")]
Beta = Annotated[float, Field(ge=0, lt=1)]
"""A decay rate of Adam, which divides by one minus it."""

Sentence = Annotated[str, AtMost(10_000, "captions are printed under a table")]
Text = Annotated[str, AtMost(4096, "no name, path or address is as long")]
