"""The commands of `altq`, one module for each: its docstring is its help, `add_flags` its flags, `run` what it does."""
