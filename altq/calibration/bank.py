"""The bank of one kind: every sublayer calibrated once, each in its own file: a killed run goes on where it was.

An entry is a safetensors file: the tensors of its transforms and clipping factors, and in its metadata their structure,
what the fit reached, and a fingerprint of all that went into it. An entry with another fingerprint is calibrated anew.
"""

import hashlib
import json
import logging
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from altq.calibration.fit import Problem, fit_sublayer
from altq.calibration.recipe import Recipe
from altq.calibration.start import start_sublayer
from altq.calibration.states import States
from altq.calibration.sublayer import QuantizedSublayer
from altq.files import atomic, write_json
from altq.models.skeleton import Skeleton
from altq.models.sublayer import HALVES, Sublayer, sublayer_name
from altq.progress import progress
from altq.setting import Setting
from altq.transforms.storage import restore, store
from altq.transforms.transform import Transform

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """The transforms of one sublayer, its clipping factors (see `QuantizedSublayer`), and whether scales are signed."""

    transforms: dict[str, Transform]
    clips: dict[str, Tensor]
    signed: bool


def entry_path(folder: str | Path, sublayer: int) -> Path:
    return Path(folder) / f"sublayer_{sublayer:03d}.safetensors"


def calibrate_bank(
    model: str | Path,
    states: str | Path,
    setting: Setting,
    kind: str,
    seed: int,
    recipe: Recipe,
    folder: str | Path,
    code: str,
) -> None:
    """Calibrate every sublayer for one kind into `folder`; index.json, written last, lists the entries.

    `code` identifies the code that calibrates: it is part of each entry's fingerprint, as are the recipe, the setting,
    the seed and the states. ValueError names the sublayer that cannot be fitted.
    """
    skeleton, known = Skeleton(model), States(states)
    arguments = skeleton.block_arguments(known.length)
    common = {"setting": str(setting), "kind": kind, "seed": seed, "code": code}
    common["recipe"] = recipe.model_dump(mode="json")
    records = []
    for s in progress(range(2 * skeleton.num_blocks), f"calibrating {kind} at {setting}"):
        fingerprint = _fingerprint(common | {"sublayer": s, "states": known.fingerprint})
        path = entry_path(folder, s)
        record = _finished_record(path, fingerprint)
        if record is None:
            sublayer = Sublayer(skeleton.block(s // 2), skeleton.family, HALVES[s % 2])
            record = _calibrate(sublayer, s, known, arguments[s // 2], setting, kind, seed, recipe, path, fingerprint)
        records.append(record)
    write_json(Path(folder) / "index.json", common | {"entries": records})


def _calibrate(
    sublayer: Sublayer,
    s: int,
    states: States,
    arguments: dict[str, Any],
    setting: Setting,
    kind: str,
    seed: int,
    recipe: Recipe,
    path: Path,
    fingerprint: str,
) -> dict[str, Any]:
    began = time.monotonic()
    name = sublayer_name(s)
    # A generator of its own for each sublayer: the result depends neither on the order nor on what was resumed.
    generator = torch.Generator().manual_seed(seed * 100_003 + s)
    moments = states.moments(s)
    transforms = start_sublayer(sublayer, moments, kind, recipe, generator)
    quantized = QuantizedSublayer(sublayer, transforms, setting, signed=recipe.signed_scale)
    problem = Problem(states.state(s), states.state(s + 1), arguments, states.loss, moments)
    fit = fit_sublayer(quantized, problem, recipe, name)
    record = {"sublayer": s, "signed": recipe.signed_scale, **asdict(fit), "fingerprint": fingerprint}
    seconds = time.monotonic() - began
    log.info("%s, %s at %s: loss %.5g -> %.5g in %.1f s", name, kind, setting, fit.start_loss, fit.loss, seconds)
    _write_entry(path, quantized, record)
    return record


def _write_entry(path: Path, quantized: QuantizedSublayer, record: dict[str, Any]) -> None:
    tensors = {f"clip.{name}": clip.contiguous() for name, clip in quantized.clipping_factors().items()}
    structure = {}
    for site, transform in quantized.transforms.items():
        structure[site], parts = store(transform)
        tensors |= {f"transform.{site}.{name}": tensor.contiguous() for name, tensor in parts.items()}
    # One key: safetensors writes several in any order, and the same entry should have the same bytes.
    metadata = {"entry": json.dumps({"structure": structure, "record": record}, sort_keys=True)}
    with atomic(path) as partial:
        save_file(tensors, partial, metadata=metadata)


def _finished_record(path: Path, fingerprint: str) -> dict[str, Any] | None:
    """The record of an entry that was made from the same things, None where there is none that can be read."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            record = json.loads(file.metadata()["entry"])["record"]
    except (SafetensorError, KeyError, TypeError) as error:
        log.warning("%s cannot be read (%s): it is calibrated anew", path, error)
        return None
    return record if record["fingerprint"] == fingerprint else None


def read_entry(folder: str | Path, sublayer: int) -> Entry:
    """An entry of a bank; ValueError where it cannot be read."""
    path = entry_path(folder, sublayer)
    try:
        with safe_open(path, framework="pt") as file:
            described = json.loads(file.metadata()["entry"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"bank entry {path} cannot be read ({error}); delete it and run again") from error
    transforms = {}
    for site, description in described["structure"].items():
        prefix = f"transform.{site}."
        parts = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
        transforms[site] = restore(description, parts)
    clips = {n.removeprefix("clip."): t for n, t in tensors.items() if n.startswith("clip.")}
    return Entry(transforms, clips, described["record"]["signed"])


def _fingerprint(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
