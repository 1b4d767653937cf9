"""altq within other libraries. `import altq.integration` lets transformers load checkpoints of altq."""

from altq.integration.quantizer import AltqConfig, AltqQuantizer

__all__ = ["AltqConfig", "AltqQuantizer"]
