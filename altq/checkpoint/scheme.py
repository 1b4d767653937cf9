"""A scheme: what a checkpoint is. With a model and its states it is all that assembly is told."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from altq.calibration.bank import Entry, check_banks, read_entry, read_residual
from altq.calibration.sublayer import identity_transforms
from altq.experiment.kinds import sublayer_name
from altq.experiment.rounding import RoundingOptions
from altq.experiment.setting import Setting
from altq.models.sublayer import Sublayer
from altq.selection.selection import Selection


@dataclass(frozen=True)
class Scheme:
    """A kind for each sublayer from the bank of that kind, bit widths, and how weights are rounded.

    banks: kind -> folder of its bank; `identity` needs none. method, seed: what results are to say of the checkpoint;
    without a method the selection's policy.
    """

    selection: Selection
    setting: Setting
    rounding: RoundingOptions
    banks: Mapping[str, Path] = field(default_factory=dict)
    method: str | None = None
    seed: int = 0

    @property
    def labels(self) -> dict[str, Any]:
        """Labels of the checkpoint in results, see `altq.checkpoint.format.labels_of`."""
        method = self.method or self.selection.policy
        return {"method": method, "setting": str(self.setting), "weights": self.rounding.weights, "seed": self.seed}

    def check(self, num_blocks: int) -> None:
        """ValueError where the selection is of another model, or a bank is missing or of another kind or setting."""
        if self.selection.num_blocks != num_blocks:
            raise ValueError(
                f"the selection is of {self.selection.model!r} with {self.selection.num_blocks} blocks, but the model "
                f"has {num_blocks}; select for this model"
            )
        if missing := sorted(set(self.selection.kinds) - set(self.banks) - {"identity"}):
            names = ", ".join(missing)
            raise ValueError(f"selection {self.selection.policy!r} names {names}, but no such bank is given")
        check_banks(self.banks, self.setting)

    def rotation(self) -> Tensor | None:
        """The rotation [hidden, hidden] of the residual stream in which all banks stand; None for none.

        ValueError where banks stand in different ones.
        """
        rotations = {bank: read_residual(bank) for bank in self.banks.values()}
        shared = next((rotation for rotation in rotations.values() if rotation is not None), None)
        for bank, rotation in rotations.items():
            if shared is not None and (rotation is None or not torch.equal(rotation, shared)):
                raise ValueError(
                    f"bank {bank} stands in another rotation of the residual stream; it cannot be mixed in"
                )
        return shared

    def entry(self, s: int, sublayer: Sublayer, *, kv_heads: int) -> Entry:
        """The bank's entry for sublayer s; plain round-to-nearest for an `identity` that has no bank.

        ValueError for an entry that cannot be read or whose transform is degenerate.
        """
        kind = self.selection.kinds[s]
        if kind not in self.banks:
            return Entry(identity_transforms(sublayer, kv_heads), {}, signed=False, asymmetric=False)
        entry = read_entry(self.banks[kind], s)
        for site, transform in entry.transforms.items():
            ok, reason = transform.check()
            if not ok:
                raise ValueError(f"bank entry of {sublayer_name(s)}, site {site}: {reason}; calibrate it again")
        return entry
