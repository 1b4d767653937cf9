"""Reconstruction error of every calibrated sublayer on tokens that no calibration saw: what the oracle chooses by."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from altq.calibration.bank import check_banks, read_entry
from altq.calibration.states import batches, run_sublayer, token_weights
from altq.calibration.unit import Problem, Unit
from altq.experiment.kinds import HALVES
from altq.experiment.setting import Setting
from altq.models.skeleton import Skeleton
from altq.models.sublayer import Sublayer
from altq.runtime.device import CPU
from altq.runtime.progress import progress


def reconstruction_errors(
    model_folder: str | Path,
    tokens: np.ndarray,
    *,
    banks: Mapping[str, str | Path],
    setting: Setting,
    loss: str,
    device: torch.device = CPU,
) -> list[dict[str, float]]:
    """Reconstruction errors {kind: error} of each sublayer, its weights rounded to nearest.

    tokens: [windows, length], weighted as `loss` says (`altq.calibration.states.token_weights`). banks: kind -> folder.
    Inputs and targets are the full-precision model's own. ValueError for a bank of another kind or setting.
    """
    skeleton = Skeleton(model_folder, device=device)
    states, arguments = skeleton.embed(torch.from_numpy(tokens).long()), skeleton.block_arguments(tokens.shape[1])
    check_banks(banks, setting)

    def sublayer(s: int) -> Sublayer:
        return Sublayer(skeleton.block(s // 2), skeleton.family, HALVES[s % 2])

    def unit(bank: str | Path, s: int) -> Unit:
        return Unit([read_entry(bank, s).restore(sublayer(s), setting)], arguments[s // 2])

    errors = []
    for s in progress(range(2 * skeleton.num_blocks), f"reconstruction error at {setting}"):
        outputs = run_sublayer(sublayer(s), states, arguments[s // 2])
        problem = Problem(states, outputs, loss)
        errors.append({kind: _error(unit(bank, s), problem) for kind, bank in banks.items()})
        states = outputs
    return errors


@torch.no_grad()
def _error(unit: Unit, problem: Problem) -> float:
    """The error over all windows, a batch at a time."""
    unit.prepare()
    total = weight = 0.0
    for rows in batches(len(problem.inputs)):
        windows = torch.arange(len(problem.inputs))[rows]
        batch_weight = token_weights(problem.loss, problem.outputs[rows]).sum().item()
        total += problem.value(unit, windows) * batch_weight
        weight += batch_weight
    return total / weight
