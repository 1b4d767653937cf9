"""Description of an experiment: every option, its default and its check. Imports nothing heavy."""
