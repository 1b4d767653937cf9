"""Where a result of one model, setting and seed lies: results/<stage>/<model>/<setting>/seed<k>/..."""

import re
from pathlib import Path

_PLACE = re.compile(r".*/(?P<model>[^/]+)/(?P<setting>W\d+A\d+K\d+V\d+)/seed(?P<seed>\d+)/.+")


def place_of(path: Path) -> tuple[str, str, int]:
    """(model, setting, seed) of a selection or of scores; ValueError where the path does not say them."""
    match = _PLACE.fullmatch(path.absolute().as_posix())
    if not match:
        raise ValueError(f"{path} is not of the form <model>/<setting>/seed<k>/..., which says what it is of")
    return match["model"], match["setting"], int(match["seed"])
