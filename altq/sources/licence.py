"""The licence of a model, as its own files say it: its card, its configuration, or the metadata of a GGUF file."""

from pathlib import Path
from typing import Any

import yaml

from altq.models.config_file import CONFIG_FILE
from altq.runtime.files import read_json
from altq.sources.gguf_header import read_gguf_header
from altq.sources.hub import CARD_FILE

KEY = "license"


def licence_of(model: Path) -> str | None:
    """The licence of a model folder or GGUF file, as written there; None where nothing says it.

    It is passed on to whoever reads a checkpoint's card, and decides nothing: what cannot be read says nothing.
    """
    if model.suffix == ".gguf" and model.is_file():
        licence = read_gguf_header(model).metadata.get("general.license")
    else:
        licence = _front_matter(model / CARD_FILE).get(KEY) or _configuration(model / CONFIG_FILE).get(KEY)
    return licence if isinstance(licence, str) and licence else None


def _front_matter(card: Path) -> dict[str, Any]:
    """The YAML at the head of a card, between two lines of dashes."""
    if not card.is_file():
        return {}
    head, *parts = card.read_text(encoding="utf-8", errors="replace").split("---\n", 2)
    if head.strip() or len(parts) < 2:
        return {}
    try:
        content = yaml.safe_load(parts[0])
    except yaml.YAMLError:
        return {}
    return content if isinstance(content, dict) else {}


def _configuration(file: Path) -> dict[str, Any]:
    content = read_json(file) if file.is_file() else {}
    return content if isinstance(content, dict) else {}
