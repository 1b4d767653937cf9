"""Uniform quantizer, clipping, cache quantizer, GPTQ, packing; knows nothing of transforms."""
