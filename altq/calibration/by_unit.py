"""Calibrating a bank unit by unit, each against the full-precision model: a killed run goes on where it was."""

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from altq.calibration.bank import entry_path, finished_record, write_entry, write_index
from altq.calibration.fit import fit_unit, start_clips
from altq.calibration.shard import WHOLE, Shard
from altq.calibration.start import silent_sites, start_sublayer
from altq.calibration.states import States
from altq.calibration.sublayer import QuantizedSublayer
from altq.calibration.unit import Problem, Unit
from altq.experiment.kinds import HALVES, sublayer_name
from altq.experiment.recipe import Recipe
from altq.experiment.setting import Setting
from altq.experiment.windows import require_windows
from altq.models.skeleton import Skeleton
from altq.models.sublayer import Sublayer
from altq.quantizers.quantizer import Quantizers
from altq.runtime.progress import progress
from altq.runtime.resume import fingerprint_of

log = logging.getLogger(__name__)

UNIT_SIZE = {"sublayer": 1, "block": 2}


def calibrate_bank(
    model: str | Path,
    states: str | Path,
    setting: Setting,
    kind: str,
    seed: int,
    recipe: Recipe,
    folder: str | Path,
    fingerprint: str,
    shard: Shard = WHOLE,
) -> None:
    """Calibrate every sublayer for one kind into `folder`; index.json, written last, lists the entries.

    A shard calibrates its own sublayers and writes no index: calibrating the whole afterwards finds their entries. The
    entries are the same bits for any number of shards.

    An entry's fingerprint is of `fingerprint` (that of the code that calibrates and of the model), the recipe, the
    setting, the kind, the seed and what is read of the states. ValueError names the sublayer that cannot be fitted, or
    windows that there are not.
    """
    skeleton, known = Skeleton(model), States(states)
    require_windows(recipe, known.num_windows)
    arguments = skeleton.block_arguments(known.length)
    common = {"setting": str(setting), "kind": kind, "seed": seed, "fingerprint": fingerprint}
    common["recipe"] = recipe.model_dump(mode="json")

    def calibrate(members: range, prints: list[str]) -> list[dict[str, Any]]:
        """Fit the sublayers of one unit and write their entries: the records of these."""
        began = time.monotonic()
        problem = Problem(known.state(members[0]), known.state(members[-1] + 1), known.loss)
        block_arguments = arguments[members[0] // 2]
        unit = start_unit(skeleton, known, members, problem, block_arguments, setting, kind, seed, recipe)
        name = sublayer_name(members[0]) if len(members) == 1 else f"block {members[0] // 2}"
        fit = fit_unit(unit, problem, recipe, name)
        made = [{"sublayer": s, **asdict(fit), "fingerprint": p} for s, p in zip(members, prints, strict=True)]
        for s, quantized, record in zip(members, unit.sublayers, made, strict=True):
            write_entry(entry_path(folder, s), quantized, record)
        seconds = time.monotonic() - began
        reached = f"{fit.start_loss:.5g} -> {fit.loss:.5g}" if fit.steps_kept else f"{fit.start_loss:.5g}"
        log.info("%s, %s at %s: loss %s in %.1f s", name, kind, setting, reached, seconds)
        return made

    records: list[dict[str, Any]] = []
    size = UNIT_SIZE[recipe.unit]
    units = shard.of(range(0, 2 * skeleton.num_blocks, size))
    for first in progress(units, f"calibrating {kind} at {setting}"):
        members = range(first, first + size)
        read = known.fingerprint_of(members)
        prints = [fingerprint_of(common | {"sublayer": s, "states": read}) for s in members]
        finished = [finished_record(entry_path(folder, s), p) for s, p in zip(members, prints, strict=True)]
        if None in finished:
            finished = calibrate(members, prints)
        records += finished
    if shard == WHOLE:
        write_index(folder, common | {"entries": records})


def start_unit(
    skeleton: Skeleton,
    known: States,
    members: Sequence[int],
    problem: Problem,
    arguments: dict[str, Any],
    setting: Setting,
    kind: str,
    seed: int,
    recipe: Recipe,
) -> Unit:
    """A unit before any step, its clipping factors found.

    What was observed is larger than a block, and is not kept; reading it again is free of what is not looked at.
    """

    def observed() -> list[dict[str, Tensor]]:
        return [known.observed(s) for s in members]

    unit = Unit(start_sublayers(skeleton, members, observed(), setting, kind, seed, recipe), arguments)
    start_clips(unit, problem, observed(), recipe)
    return unit


def start_sublayers(
    skeleton: Skeleton,
    members: Sequence[int],
    observed: Sequence[dict[str, Tensor]],
    setting: Setting,
    kind: str,
    seed: int,
    recipe: Recipe,
) -> list[QuantizedSublayer]:
    """Sublayers of one block, of which they have a copy for themselves, with the starting transforms of a kind."""
    block = skeleton.block(members[0] // 2)
    started = []
    for s, seen in zip(members, observed, strict=True):
        if silent := silent_sites(seen):
            log.warning("%s: no signal at %s; nothing is balanced there", sublayer_name(s), ", ".join(silent))
        # A generator of its own for each sublayer: the result depends neither on the order nor on what was resumed.
        generator = torch.Generator().manual_seed(seed * 100_003 + s)
        sublayer = Sublayer(block, skeleton.family, HALVES[s % 2])
        transforms = start_sublayer(sublayer, seen, kind, recipe, generator)
        quantizers = Quantizers.at(setting, signed=recipe.signed_scale)
        started.append(QuantizedSublayer(sublayer, transforms, quantizers))
    return started
