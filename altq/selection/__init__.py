"""Choosing a transformation kind for each sublayer."""
