"""What the kernels compute, in plain torch: one file a concept, the signatures of the kernels."""
