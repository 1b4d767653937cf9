"""Measurement of the kernels: cases that are timed, limits of the machine, resources of the compiled kernels."""
