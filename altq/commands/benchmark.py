"""Time the kernels that ship, on this CPU or on this GPU.

Reads nothing. Writes a table as .csv, a row for each case (device, phase, shape, tokens, method, median and quartiles of
seconds, ratio to the group's first case, limit), and beside it a .json with the machine and how it was made. Nothing
else should run beside it.

  altq benchmark --device cpu --output results/kernels/cpu.csv
"""

import argparse

from altq.runtime.gpu import claim_gpu
from altq.runtime.provenance import provenance
from kernels import benchmark


def add_flags(parser: argparse.ArgumentParser) -> None:
    benchmark.add_flags(parser)


def run(arguments: argparse.Namespace) -> None:
    if arguments.device == "gpu":
        claim_gpu()
    rows, machine = benchmark.run(arguments)
    if arguments.output:
        options = {"device": arguments.device, "rounds": arguments.rounds, "seconds": arguments.seconds}
        benchmark.write(rows, machine | {"provenance": provenance("benchmark", options, [])}, arguments.output)
