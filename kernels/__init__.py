"""Kernels of the quantized layers, their plain references and their measurement. They know only tensors.

`reference` says in plain torch what every kernel computes; `triton` has the kernels for NVIDIA GPUs.

The name is also that of a package which transformers can use where it is installed. Ours is told from it by its
version, so transformers sees none (tests/kernels/test_package.py); the two cannot be installed side by side.
"""
