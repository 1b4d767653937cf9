"""The longest window that a model was made for: beyond it a perplexity says nothing of quantization."""

import logging
from pathlib import Path

from altq.models.config_file import CONFIG_FILE
from altq.runtime.files import read_json

log = logging.getLogger(__name__)
KEY = "max_position_embeddings"


def check_context(folder: str | Path, window_length: int) -> int | None:
    """Tokens of a model's longest window, with a warning for longer ones; None where config.json says nothing."""
    context: int | None = read_json(Path(folder) / CONFIG_FILE).get(KEY)
    if context is not None and window_length > context:
        log.warning(
            "windows of %d tokens are longer than the %d that the model was made for (%s in %s): its loss at the "
            "places beyond is no measure of its quantization; draw windows of at most %d",
            window_length, context, KEY, Path(folder) / CONFIG_FILE, context,
        )  # fmt: skip
    return context
