"""The command line of altq: one command for each stage of the workflow, usable without it."""

import argparse
import gc
import logging
import os
import sys
import warnings
from contextlib import redirect_stderr
from importlib import import_module

from altq.runtime.progress import LinesFromBars, Messages
from altq.runtime.stopping import Terminated, sigterm_heeded

COMMANDS = (
    "fetch-model", "fetch-corpus", "fetch-task", "tokens", "requests", "statistics", "states", "calibrate",
    "calibrate-end-to-end", "search", "reconstruction", "predict", "select", "assemble", "perplexity",
    "perplexity-packed", "zero-shot", "generate", "benchmark", "compiled", "distinct", "table1", "table2", "table3",
    "table4", "table5", "table6", "table7", "figure1", "figure2", "cost", "show", "config", "schema", "plan", "doctor",
    "verify",
)  # fmt: skip
OBJECTS_BETWEEN_COLLECTIONS = 100_000
"""Importing torch and transformers makes millions of objects that stay: looking through them is a tenth of its time."""

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")

DESCRIPTION = """\
Adaptive layer-wise transformations for quantizing language models.

Every stage of the workflow is one command, listed in order. `altq COMMAND --help` says what a stage reads and writes
and gives an example. `snakemake --cores all` runs them all."""


def main(argv: list[str] | None = None) -> int:
    """Run one command; 0 when done, 1 with one message for what the user can mend, 2 for wrong usage.

    130 when stopped by SIGINT, 143 by SIGTERM.
    """
    gc.set_threshold(OBJECTS_BETWEEN_COLLECTIONS)
    arguments = build_parser().parse_args(argv)
    _limit_threads(arguments.threads)
    stderr = sys.stderr if sys.stderr.isatty() else LinesFromBars(sys.stderr)
    logger = logging.getLogger("altq")
    if not logger.handlers:
        logger.addHandler(Messages())
        logger.setLevel(logging.INFO)
    with redirect_stderr(stderr), warnings.catch_warnings(), sigterm_heeded():
        warnings.showwarning = _show_warning
        try:
            arguments.run(arguments)
        except (ValueError, OSError) as error:
            print(f"altq: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt as stop:
            print("altq: stopped; run again to go on from there", file=sys.stderr)
            return 143 if isinstance(stop, Terminated) else 130
    return 0


def build_parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("altq", description=DESCRIPTION, formatter_class=raw)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name in COMMANDS:
        module = import_module(f"altq.commands.{name.replace('-', '_')}")
        first_line = module.__doc__.split("\n", 1)[0]
        command = commands.add_parser(name, help=first_line, description=module.__doc__, formatter_class=raw)
        module.add_flags(command)
        command.add_argument(
            "--threads", type=_positive, metavar="N", help="threads of the numeric libraries (default: theirs)"
        )
        command.set_defaults(run=module.run)
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not a number of threads; give 1 or more")
    return value


def _limit_threads(threads: int | None) -> None:
    # The libraries read these when they are imported, which no module has done yet.
    if threads is not None:
        os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
        os.environ["TOKENIZERS_PARALLELISM"] = "true" if threads > 1 else "false"


def _show_warning(message: Warning | str, category: type[Warning], filename: str, lineno: int, *rest: object) -> None:
    if category is UserWarning:
        print(f"altq: warning: {message}", file=sys.stderr)
    else:
        print(warnings.formatwarning(message, category, filename, lineno), end="", file=sys.stderr)
