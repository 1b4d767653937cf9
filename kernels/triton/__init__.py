"""Kernels for NVIDIA GPUs in Triton: one file a kernel, beside `kernels.reference`, whose signatures they share."""
