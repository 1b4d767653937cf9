"""What commands share: flags that several of them have, and sources described as in config.yaml."""

import argparse
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from altq.commands.outputs import refuse_overwriting
from altq.experiment.kinds import KINDS
from altq.experiment.section import problems_of
from altq.experiment.sources import CorpusDescription, ModelDescription, TaskDescription
from altq.experiment.tasks import TASKS, checked_task
from altq.runtime.documents import parse_yaml

Description = TypeVar("Description", bound=BaseModel)


def add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", type=Path, required=True, metavar="FOLDER", help="model folder: results/models/NAME")


def add_states(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--states", type=Path, required=True, metavar="FOLDER", help="folder that `altq states` wrote")


def add_setting(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--setting", required=True, metavar="WaAbKcVd", help="bit widths, e.g. W4A4K4V4")


def add_candidates(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--candidates", nargs="+", choices=KINDS, required=True, metavar="KIND", help=f"among {', '.join(KINDS)}"
    )


def add_banks(parser: argparse.ArgumentParser, which: str) -> None:
    parser.add_argument(
        "--banks", type=Path, nargs="*", default=[], metavar="FOLDER", help=f"folders of the banks {which}"
    )


def add_seed(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--seed", type=int, required=True, metavar="N", help=f"seed of {what}")


def add_folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--folder", type=Path, required=True, help="model folder or checkpoint folder")


def add_task(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--task", type=_parse_task, required=True, metavar="NAME", help=f"among {', '.join(TASKS)}")


def _parse_task(text: str) -> str:
    try:
        return checked_task(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_loss(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--loss", choices=("relative", "mse"), required=True, help="how tokens are weighted: calibration.loss"
    )


def add_output(parser: argparse.ArgumentParser, what: str, beside: Sequence[str] = (), own: Sequence[str] = ()) -> None:
    """--output. what: a folder, or a file by its suffix (".json file").

    beside: ends of what is written besides, after the stem of the file. own: flags whose files lie in the output folder.
    """
    parser.add_argument("--output", type=Path, required=True, metavar="PATH", help=f"{what} to write")
    parser.set_defaults(suffix=what.partition(" ")[0], beside=beside, own=own)


def positive(text: str) -> int:
    """The type of a flag that counts."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is too small; give 1 or more")
    return value


def add_source(parser: argparse.ArgumentParser, kind: str) -> None:
    parser.add_argument(
        "--source", required=True, metavar="YAML", help=f"where the {kind} comes from, as under `{kind}` in config.yaml"
    )


def refuse_own_source(output: Path, description: ModelDescription | CorpusDescription | TaskDescription) -> None:
    """ValueError where a source's local files are those that are to be written: fetching would delete them."""
    paths = description.paths if isinstance(description, CorpusDescription) else None
    local = [description.path, *(paths.model_dump().values() if paths else [])]
    refuse_overwriting([output], [Path(path) for path in local if path])


def source_flags(description: BaseModel) -> str:
    """The value of --source, quoted, that gives back `description` but for what only tables and plans read."""
    given = description.model_dump(mode="json", exclude_unset=True, exclude={"published", "departure", "shape"})
    return shlex.quote(json.dumps(given, sort_keys=True))


def read_source(text: str, description: type[Description]) -> Description:
    """The checked description in `text`, which is YAML as in config.yaml; ValueError with every problem."""
    content = parse_yaml(text, "--source")
    try:
        return description.model_validate(content)
    except ValidationError as error:
        raise ValueError("; ".join(problems_of(error, "--source"))) from None
