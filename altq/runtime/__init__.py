"""How a stage runs: files, devices, precision, provenance, progress, and going on after a stop."""
