"""Calibrating a bank unit by unit, each against the full-precision model: a killed run goes on where it was."""

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from altq.calibration.bank import entry_path, finished_record, write_entry, write_index
from altq.calibration.fit import fit_unit, start_clips
from altq.calibration.fitting import Fitting
from altq.calibration.shard import WHOLE, Shard
from altq.calibration.start import silent_sites, start_sublayer
from altq.calibration.subject import Subject
from altq.calibration.sublayer import QuantizedSublayer
from altq.calibration.unit import Problem, Unit
from altq.experiment.kinds import sublayer_name
from altq.experiment.recipe import Recipe
from altq.experiment.windows import require_windows
from altq.quantizers.quantizer import Quantizers
from altq.runtime.progress import progress
from altq.runtime.resume import fingerprint_of, warn_of_mixture

log = logging.getLogger(__name__)

UNIT_SIZE = {"sublayer": 1, "block": 2}


def calibrate_bank(
    subject: Subject, fitting: Fitting[Recipe], folder: str | Path, *, fingerprint: str, shard: Shard = WHOLE
) -> None:
    """Calibrate every sublayer for one kind into `folder`; index.json, written last, lists the entries.

    A shard calibrates its own sublayers and writes no index: calibrating the whole afterwards finds their entries. The
    entries are the same bits for any number of shards.

    An entry's fingerprint is of `fingerprint` (that of the code that calibrates and of the model), the fitting, and what
    is read of the states, but not of the device: the index says which made what. ValueError names the sublayer that
    cannot be fitted, or windows that there are not.
    """
    require_windows(fitting.recipe, subject.states.num_windows)
    common = fitting.description | {"fingerprint": fingerprint}
    records: list[dict[str, Any]] = []
    size = UNIT_SIZE[fitting.recipe.unit]
    units = shard.of(range(0, subject.num_sublayers, size))
    for first in progress(units, f"calibrating {fitting}"):
        members = range(first, first + size)
        states = subject.states.fingerprint_of(members)
        fingerprints = [fingerprint_of(common | {"sublayer": s, "states": states}) for s in members]
        found = [
            finished_record(entry_path(folder, s), expected) for s, expected in zip(members, fingerprints, strict=True)
        ]
        finished = [record for record in found if record is not None]
        if len(finished) < len(members):
            finished = _calibrate_unit(subject, fitting, members, folder=Path(folder), fingerprints=fingerprints)
        records += finished
    warn_of_mixture((record["device"] for record in records), str(folder))
    if shard == WHOLE:
        write_index(folder, common | {"entries": records})


def _calibrate_unit(
    subject: Subject, fitting: Fitting[Recipe], members: Sequence[int], *, folder: Path, fingerprints: Sequence[str]
) -> list[dict[str, Any]]:
    """Fit the sublayers of one unit and write their entries: the records of these."""
    began = time.monotonic()
    name = sublayer_name(members[0]) if len(members) == 1 else f"block {members[0] // 2}"
    unit = start_unit(subject, fitting, members)
    fit = fit_unit(unit, Problem.of(subject.borders, members), recipe=fitting.recipe, name=name)
    records = [
        {"sublayer": s, **asdict(fit), "fingerprint": fingerprint, "device": subject.skeleton.device.type}
        for s, fingerprint in zip(members, fingerprints, strict=True)
    ]
    for s, quantized, record in zip(members, unit.sublayers, records, strict=True):
        write_entry(entry_path(folder, s), quantized, record)
    seconds = time.monotonic() - began
    losses = f"{fit.start_loss:.5g} -> {fit.loss:.5g}" if fit.steps_kept else f"{fit.start_loss:.5g}"
    log.info("%s, %s: loss %s in %.1f s", name, fitting, losses, seconds)
    return records


def start_unit(subject: Subject, fitting: Fitting[Recipe], members: Sequence[int]) -> Unit:
    """A unit before any step, with its starting transforms and clipping factors.

    members: a sublayer, or both of a block. Moments are larger than a block, and are not kept: reading them again is
    free of what is not looked at.
    """
    unit = Unit(start_sublayers(subject, fitting, members), subject.arguments[members[0] // 2])
    moments = [subject.borders.observed(s) for s in members]
    start_clips(unit, Problem.of(subject.borders, members), observed=moments, recipe=fitting.recipe)
    return unit


def start_sublayers(subject: Subject, fitting: Fitting[Recipe], members: Sequence[int]) -> list[QuantizedSublayer]:
    """Sublayers of one block, of which they have a copy for themselves, with the starting transforms of a kind."""
    recipe = fitting.recipe
    quantizers = Quantizers.at(fitting.setting, signed=recipe.signed_scale, zero_point=recipe.zero_point)
    started = []
    for s, sublayer in zip(members, subject.sublayers(members), strict=True):
        moments = subject.borders.observed(s)
        if silent := silent_sites(moments):
            log.warning("%s: no signal at %s; nothing is balanced there", sublayer_name(s), ", ".join(silent))
        # A generator of its own for each sublayer: the result depends neither on the order nor on what was resumed.
        generator = torch.Generator().manual_seed(fitting.seed * 100_003 + s)
        transforms = start_sublayer(sublayer, moments, kind=fitting.kind, recipe=recipe, generator=generator)
        started.append(QuantizedSublayer(sublayer, transforms, quantizers))
    return started
