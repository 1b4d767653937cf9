"""The command that times the kernels checks what it is asked for."""

import argparse

import pytest

from kernels.measure.benchmark import add_flags, run


def test_more_threads_than_cores_are_refused():
    """A pool of 10^9 threads takes the machine down; `altq benchmark` bounds them before."""
    parser = argparse.ArgumentParser()
    add_flags(parser)
    arguments = parser.parse_args([])
    arguments.threads = 10**9
    with pytest.raises(ValueError, match="--threads 1000000000: this process may use"):
        run(arguments)
