"""Refinement: scales, clipping factors and gains of a checkpoint, trained on the full-precision model's logits."""
