"""What every job takes: memory, time and disk, from a model's shape and the experiment's options alone."""
