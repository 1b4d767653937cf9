"""Execution of a stage: files, devices, precision, provenance, progress, and resuming after a stop."""
