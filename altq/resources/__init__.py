"""Resources of every job: memory, time and disk, from a model's shape and the experiment's options alone."""
