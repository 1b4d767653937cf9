"""Sources of models, corpora and tasks: hub, wheel, local file."""
