"""Checkpoints in the formats of other libraries: what folds completely, and nothing that a format cannot say exactly."""
