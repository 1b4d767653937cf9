"""Measurement of the kernels: cases that are timed, limits of the machine, and what the compiler makes of them."""
