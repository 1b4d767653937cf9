"""Quantized checkpoints: assembled from banks, stored, and run."""
