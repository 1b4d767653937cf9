"""Refinement of a checkpoint: its codes stay, and what scales them is trained on the full-precision model's logits."""

import logging
import math
import shutil
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from altq.checkpoint.format import (
    CHECKPOINT_FILE,
    CHECKPOINT_INDEX_FILE,
    MORE_TEMPLATES,
    CheckpointWeights,
    begin_checkpoint,
    is_checkpoint,
    write_index,
    write_part,
)
from altq.experiment.refinement import RefinementRecipe
from altq.models.config_file import CONFIG_FILE
from altq.refinement.student import Student
from altq.refinement.teacher import Teacher
from altq.refinement.training import Training
from altq.runtime.device import CPU
from altq.runtime.files import read_json, sha256, write_json
from altq.runtime.provenance import FILE_NAME
from altq.runtime.resume import Scratch

log = logging.getLogger(__name__)

OWN_FILES = (CONFIG_FILE, CHECKPOINT_FILE, CHECKPOINT_INDEX_FILE, FILE_NAME)
"""Files of a checkpoint that are not copied as they are, or only at the end."""


def refine(
    model_folder: str | Path,
    checkpoint_folder: str | Path,
    *,
    tokens: np.ndarray,
    held_out: np.ndarray,
    recipe: RefinementRecipe,
    method: str,
    folder: str | Path,
    fingerprint: str,
    device: torch.device = CPU,
) -> dict[str, Any]:
    """Write the refined checkpoint to `folder`, quantization.json last; plain values that say how training went.

    tokens, held_out: [windows, length], those that steps are taken on and those that judge. method: what results are to
    call it. A run of the same `fingerprint` that was stopped goes on at its step. ValueError for a folder that is no
    checkpoint or quantizes nothing, for windows that are lacking or of two lengths, and for a loss that is not finite
    before any step.
    """
    folder, checkpoint_folder = Path(folder), Path(checkpoint_folder)
    if not is_checkpoint(checkpoint_folder):
        raise ValueError(f"{checkpoint_folder} is no checkpoint: there are no codes whose scales could be refined")
    windows = _joined(tokens, held_out, recipe)
    student, teacher = Student(checkpoint_folder, windows.shape[1], device), Teacher(model_folder, device)
    begin_checkpoint(folder)
    with (
        Scratch(folder / "teacher.scratch", fingerprint, device.type) as of_teacher,
        Scratch(folder / "refinement.scratch", fingerprint, device.type) as of_training,
    ):
        path = folder / "teacher.scratch" / "last_states.npy"
        _record(teacher, windows, path=path, scratch=of_teacher)
        training = Training(
            student, teacher, tokens=windows, num_held_out=len(held_out), recipe=recipe, scratch=of_training
        )
        best, devices = training.run(), of_training.devices
        write_refined(student.skeleton.weights, student.trained.changed(), folder=folder, method=method)
    return {
        "trained_numbers": student.trained.num_elements,
        "losses": [loss if math.isfinite(loss) else None for loss in training.losses],
        "diverged": training.diverged,
        "held_out": [{"steps": judgement.steps, "loss": judgement.loss} for judgement in training.judgements],
        "kept_steps": best.steps,
        "devices": devices,
    }


def _record(teacher: Teacher, windows: Tensor, *, path: Path, scratch: Scratch) -> None:
    """Let a teacher read its states over all windows, after recording them where a stopped run has not."""
    is_finished = bool(scratch.units) and isinstance(scratch.units[-1], dict)
    if is_finished and not (path.is_file() and sha256(path) == scratch.units[-1]["sha256"]):
        log.warning("%s is not what was recorded: the full-precision model is run anew", path)
        scratch.drop()
        is_finished = False
    if not is_finished:
        teacher.record(windows, path, scratch)
        scratch.add({"sha256": sha256(path)})
    teacher.read(path)


def _joined(tokens: np.ndarray, held_out: np.ndarray, recipe: RefinementRecipe) -> Tensor:
    """All windows, held-out ones last."""
    for name, windows in (("to train on", tokens), ("to judge by", held_out)):
        if not len(windows):
            raise ValueError(f"there are no windows {name}; draw some with `altq tokens`")
    if tokens.shape[1] != held_out.shape[1]:
        raise ValueError(
            f"windows to train on have {tokens.shape[1]} tokens, held-out ones {held_out.shape[1]}; draw both alike"
        )
    if shared := {window.tobytes() for window in tokens} & {window.tobytes() for window in held_out}:
        raise ValueError(f"{len(shared)} held-out windows are among those to train on; draw them with `--held-out`")
    if recipe.windows_per_step > len(tokens):
        raise ValueError(
            f"windows_per_step is {recipe.windows_per_step}, but there are {len(tokens)} windows; ask for fewer, or draw "
            "more"
        )
    return torch.from_numpy(np.concatenate([tokens, held_out])).long()


def write_refined(source: CheckpointWeights, changed: dict[str, Tensor], *, folder: Path, method: str) -> None:
    """Write a checkpoint again, in files of the same names, with other values of some of its tensors.

    changed: those tensors, by name. All else is what it was, codes to the bit, but for the name of the method.
    ValueError for a name that the checkpoint has not.
    """
    places = read_json(source.folder / CHECKPOINT_INDEX_FILE)["weight_map"]
    names = {file: [name for name in source.names if places[name] == file] for file in dict.fromkeys(places.values())}
    if missing := sorted(changed.keys() - places.keys()):
        raise ValueError(f"{source.folder} lacks {missing[0]}; {source.source.remedy}")
    for file, of_file in names.items():
        write_part(folder / file, {name: changed.get(name, source.tensor(name)) for name in of_file})
    write_index(folder, names)
    for path in chain(source.folder.iterdir(), source.folder.glob(MORE_TEMPLATES)):
        if path.suffix in (".json", ".model", ".txt", ".jinja") and path.name not in OWN_FILES:
            place = folder / path.relative_to(source.folder)
            place.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, place)
    write_json(folder / CONFIG_FILE, read_json(source.folder / CONFIG_FILE))
    write_json(folder / CHECKPOINT_FILE, read_json(source.folder / CHECKPOINT_FILE) | {"method": method})
