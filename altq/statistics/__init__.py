"""Statistics of weights."""
