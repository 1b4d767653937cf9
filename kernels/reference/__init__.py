"""Definitions in plain torch of what the kernels compute: one file a concept, with the signatures of the kernels."""
