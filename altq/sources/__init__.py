"""Where models, corpora and tasks come from: hub, wheel, local file."""
