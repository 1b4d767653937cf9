"""The command line of altq: commands for people, and one for each stage of the workflow, usable without it."""

import argparse
import ast
import gc
import logging
import sys
import warnings
from contextlib import redirect_stderr
from difflib import get_close_matches
from importlib import import_module
from importlib import util as import_util
from importlib.metadata import version
from pathlib import Path
from typing import TextIO

from altq.commands.device import add_device
from altq.commands.outputs import refuse_collisions
from altq.runtime.code_hash import command_module, function_of
from altq.runtime.cores import limit_threads
from altq.runtime.failures import message_of
from altq.runtime.gpu import claim_gpu
from altq.runtime.progress import LinesFromBars, Messages
from altq.runtime.stopping import Terminated, is_interrupted, signals_heeded

GROUPS = {
    "use": ("quantize", "compare", "generate", "export", "show"),
    "inspect": ("config", "schema", "plan", "doctor", "verify"),
    "stages": (
        "fetch-model",
        "fetch-corpus",
        "fetch-task",
        "tokens",
        "requests",
        "statistics",
        "states",
        "calibrate",
        "calibrate-end-to-end",
        "search",
        "reconstruction",
        "predict",
        "select",
        "distinct",
        "assemble",
        "refine",
        "perplexity",
        "perplexity-packed",
        "card",
        "zero-shot",
        "benchmark",
        "compiled",
        *(f"table{number}" for number in range(1, 8)),
        "figure1",
        "figure2",
        "cost",
    ),
}
"""The commands: of people who have a model or results, before a run, and the workflow's stages in their order."""

COMMANDS = tuple(command for group in GROUPS.values() for command in group)

ON_A_DEVICE = (
    "generate", "states", "calibrate", "calibrate-end-to-end", "search", "reconstruction", "predict", "assemble",
    "refine", "perplexity", "zero-shot",
)  # fmt: skip
"""The commands that compute on the device that `--device` names."""

OBJECTS_BETWEEN_COLLECTIONS = 100_000
"""Importing torch and transformers makes millions of objects that stay: looking through them is a tenth of its time."""

DESCRIPTION = """\
Adaptive layer-wise transformations for quantizing language models.

`altq COMMAND --help` says what a command reads and writes and gives an example. `snakemake --cores all` runs all
stages of an experiment."""


def main(argv: list[str] | None = None) -> int:
    """Run one command; 0 when done, 1 with one message for what the user can mend, 2 for wrong usage.

    130 when stopped by SIGINT, 143 by SIGTERM. Only the module of the command that is called is imported.
    """
    gc.set_threshold(OBJECTS_BETWEEN_COLLECTIONS)
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    if argv[0] == "--version":
        print(f"altq {version('altq')}")
        return 0
    command, *flags = argv
    if command not in COMMANDS:
        near = get_close_matches(command, COMMANDS, n=1)
        print(f"altq: {command!r} is no command{f'; did you mean {near[0]}?' if near else ''}", file=sys.stderr)
        return 2
    stderr = sys.stderr if sys.stderr.isatty() else LinesFromBars(sys.stderr)
    logger = logging.getLogger("altq")
    if not logger.handlers:
        logger.addHandler(Messages())
        logger.setLevel(logging.INFO)
    with redirect_stderr(stderr), warnings.catch_warnings(), signals_heeded():
        warnings.showwarning = _show_warning
        try:
            # Both are settled before the numeric libraries are imported with the command's module.
            threads = limit_threads(frame_parser().parse_known_args(flags)[0].threads)
            if (device := device_of(command, flags)) is not None:
                claim_gpu(device)
            arguments = command_parser(command).parse_args(flags)
            arguments.threads = threads
            refuse_collisions(arguments)
            arguments.run(arguments)
        except KeyboardInterrupt as stop:
            return _stopped(143 if isinstance(stop, Terminated) else 130)
        except Exception as error:
            if is_interrupted():
                return _stopped(130)
            message = message_of(error)
            if message is None:
                raise
            print(f"altq: {message}", file=sys.stderr)
            return 1
    return 0


def _stopped(status: int) -> int:
    print("altq: stopped; run again to go on from there", file=sys.stderr)
    return status


def device_of(command: str, flags: list[str]) -> str | None:
    """The device that a command is to claim before torch, which looks for it, is imported; None for none, or bad usage."""
    if command == "benchmark":
        return "cuda" if "gpu" in flags else None
    if command not in ON_A_DEVICE or {"-h", "--help"} & set(flags):
        return None
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    add_device(parser)
    try:
        return parser.parse_known_args(flags)[0].device
    except argparse.ArgumentError:  # the command's own parser says so
        return None


def overview() -> str:
    """Text of `altq --help`: every command with the first line of its help, by groups; none is imported."""
    lines = ["usage: altq COMMAND ...", "", DESCRIPTION]
    for group, commands in GROUPS.items():
        lines += ["", f"{group}:"]
        lines += [f"  {command:<21}{help_of(command).splitlines()[0]}" for command in commands]
    return "\n".join(lines)


def help_of(command: str) -> str:
    """The help of a command: the docstring of its function, read from its file; ValueError where that has no such one."""
    spec = import_util.find_spec(command_module(command))
    assert spec is not None and spec.origin is not None, f"{command} is defined in a file"
    file = Path(spec.origin)
    for statement in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.FunctionDef) and statement.name == function_of(command):
            docstring = ast.get_docstring(statement)
            assert docstring is not None, f"{file} does not describe {command}"
            return docstring
    raise ValueError(f"{file} does not define {command}")


def frame_parser() -> argparse.ArgumentParser:
    """A parser of the flags that all commands have."""
    parser = argparse.ArgumentParser("altq", add_help=False, allow_abbrev=False)
    parser.add_argument(
        "--threads", type=_positive, metavar="N", help="threads of the numeric libraries (default: theirs)"
    )
    return parser


def command_parser(command: str) -> argparse.ArgumentParser:
    """The parser of a command, from its module, which is imported; `run` among what it parses is its function."""
    module = import_module(command_module(command))
    parser = argparse.ArgumentParser(
        f"altq {command}",
        description=help_of(command),
        parents=[frame_parser()],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    getattr(module, f"{function_of(command)}_flags")(parser)
    parser.set_defaults(run=getattr(module, function_of(command)))
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not a number of threads; give 1 or more")
    return value


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    if category is UserWarning:
        print(f"altq: warning: {message}", file=sys.stderr)
    else:
        print(warnings.formatwarning(message, category, filename, lineno), end="", file=sys.stderr)
