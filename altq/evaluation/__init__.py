"""Perplexity of a checkpoint."""
