"""A finished checkpoint in a folder of its own, apart from the results that it came from: the one that is used or sent."""

import os
import shutil
from pathlib import Path

from altq.checkpoint.format import CHECKPOINT_FILE, begin_checkpoint
from altq.models.config_file import CONFIG_FILE

LAST = (CONFIG_FILE, CHECKPOINT_FILE)
"""What says that the folder holds a checkpoint, written when all else is there."""


def publish(checkpoint: Path, folder: Path) -> None:
    """Give a checkpoint a second place: weights as links to the same bytes where the disk has them, all else copied.

    What stood in the folder of an earlier checkpoint is replaced. ValueError where it holds a model that is none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    begin_checkpoint(folder)
    names = [path.relative_to(checkpoint) for path in checkpoint.rglob("*") if path.is_file() and path.name[0] != "."]
    for stale in folder.glob("altq-*.safetensors"):
        stale.unlink()
    for name in sorted(names, key=lambda name: (name.name in LAST, name)):
        place = folder / name
        place.parent.mkdir(exist_ok=True)
        place.unlink(missing_ok=True)
        # Only weights are never written to in place.
        _link(checkpoint / name, place) if name.suffix == ".safetensors" else shutil.copyfile(checkpoint / name, place)


def _link(path: Path, place: Path) -> None:
    try:
        os.link(path, place)
    except OSError:  # another disk, or one without links; a full one fails again
        shutil.copyfile(path, place)
