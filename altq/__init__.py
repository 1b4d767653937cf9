"""altq: choosing a transformation per layer when quantizing a language model."""

__version__ = "0.1.0"
