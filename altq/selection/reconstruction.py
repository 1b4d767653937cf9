"""Reconstruction error of every calibrated sublayer on tokens that no calibration saw: what the oracle chooses by."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from altq.calibration.bank import read_entry
from altq.calibration.states import run_sublayer
from altq.calibration.unit import Problem, Unit
from altq.models.skeleton import Skeleton
from altq.models.sublayer import HALVES, Sublayer
from altq.progress import progress
from altq.setting import Setting


def reconstruction_errors(
    model: str | Path, tokens: np.ndarray, banks: Mapping[str, str | Path], setting: Setting, loss: str
) -> list[dict[str, float]]:
    """{kind: error} of each sublayer, weighted as the loss weights tokens, weights rounded to nearest.

    tokens: [windows, length]; banks: kind -> folder. Inputs and targets are the full-precision model's own.
    """
    skeleton = Skeleton(model)
    states, arguments = skeleton.embed(torch.from_numpy(tokens).long()), skeleton.block_arguments(tokens.shape[1])
    everything = torch.arange(len(tokens))
    errors = []
    for s in progress(range(2 * skeleton.num_blocks), f"reconstruction error at {setting}"):

        def sublayer() -> Sublayer:
            return Sublayer(skeleton.block(s // 2), skeleton.family, HALVES[s % 2])

        outputs = run_sublayer(sublayer(), states, arguments[s // 2])
        problem = Problem(states, outputs, loss)
        of_kind = {}
        for kind, bank in banks.items():
            unit = Unit([read_entry(bank, s).restore(sublayer(), setting)], arguments[s // 2])
            of_kind[kind] = problem.settled(unit, everything)
        errors.append(of_kind)
        states = outputs
    return errors
