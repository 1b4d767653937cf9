"""Model families as descriptions, and streaming of their blocks from safetensors."""
