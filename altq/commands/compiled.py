"""Compile every GPU kernel for targets that are not at hand, and write what the compiler made of it.

Reads nothing and needs no GPU. Writes a .csv with a row for each kernel, case and target (registers, spills, shared
memory, tensor-core instructions, occupancy, the least time on a GPU of that target and what bounds it; nothing of it is
measured), and beside it a .json that says how it was made.

  altq compiled --output results/kernels/compiled.csv
"""

import argparse

from altq.commands.command import add_output
from altq.runtime.provenance import provenance


def add_flags(parser: argparse.ArgumentParser) -> None:
    add_output(parser, ".csv file")


def run(arguments: argparse.Namespace) -> None:
    from altq.runtime.files import write_json
    from kernels.compiled import write_compiled

    write_compiled(arguments.output)
    write_json(arguments.output.with_suffix(".json"), {"provenance": provenance("compiled", {}, [])})
