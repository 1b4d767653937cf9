"""Invertible linear maps, one file per kind; knows nothing of quantization."""
