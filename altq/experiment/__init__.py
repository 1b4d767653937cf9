"""What an experiment is: every option, its default and its check. Imports nothing heavy."""
