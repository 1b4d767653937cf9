"""Commands that time the kernels, and compile those for GPUs that are not at hand."""

import argparse

from altq.commands.command import add_output
from altq.runtime.files import errors_naming, write_json
from altq.runtime.provenance import provenance
from kernels.measure import benchmark as timing
from kernels.measure.compilation import write_compiled
from kernels.measure.timing import write


def benchmark_flags(parser: argparse.ArgumentParser) -> None:
    timing.add_flags(parser)
    parser.set_defaults(suffix=".csv", beside=(".json",), own=())


def benchmark(arguments: argparse.Namespace) -> None:
    """Time the kernels that ship, on this CPU or on this GPU.

    Reads nothing. Writes a table as .csv, a row for each case (device, phase, shape, tokens, method, median and
    quartiles of seconds, ratio to the group's first case, limit), and beside it a .json with the machine and how it was
    made. Nothing else should run beside it.

      altq benchmark --device cpu --output results/kernels/cpu.csv
    """
    rows, machine = timing.run(arguments)
    if arguments.output:
        options = {"device": arguments.device, "rounds": arguments.rounds, "seconds": arguments.seconds}
        with errors_naming(arguments.output):
            write(rows, machine | {"provenance": provenance("benchmark", options, [])}, arguments.output)


def compiled_flags(parser: argparse.ArgumentParser) -> None:
    add_output(parser, ".csv file", beside=(".json",))


def compiled(arguments: argparse.Namespace) -> None:
    """Compile every GPU kernel for targets that are not at hand, and write what the compiler made of it.

    Reads nothing and needs no GPU. Writes a .csv with a row for each kernel, case and target (registers, spills, shared
    memory, tensor-core instructions, occupancy, the least time on a GPU of that target and what bounds it; nothing of
    it is measured), and beside it a .json that says how it was made.

      altq compiled --output results/kernels/compiled.csv
    """
    write_compiled(arguments.output)
    write_json(arguments.output.with_suffix(".json"), {"provenance": provenance("compiled", {}, [])})
