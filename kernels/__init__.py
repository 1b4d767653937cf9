"""Kernels of the quantized layers, their plain references and their measurement. They know only tensors.

`reference` defines in plain torch what every kernel computes. `cpu` has kernels in C, `triton` those for NVIDIA GPUs,
and `measure` times them and computes their limits. Imports run down: measure, then cpu and triton, then reference.

The name is also that of a package which transformers can use where it is installed. Ours is told from it by its
version, so transformers sees none (tests/kernels/test_package.py); the two cannot be installed side by side.
"""
