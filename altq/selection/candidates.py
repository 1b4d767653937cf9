"""Candidates: the kinds of transformation that a policy compares at every sublayer, each started alike."""

from dataclasses import dataclass
from typing import Any

from altq.calibration.fitting import Fitting
from altq.experiment.recipe import Recipe
from altq.experiment.setting import Setting


@dataclass(frozen=True)
class Candidates:
    """Kinds at one setting, with one seed and one recipe.

    kinds: in the order of a mixture's shares.
    """

    kinds: tuple[str, ...]
    setting: Setting
    seed: int
    recipe: Recipe

    @property
    def fittings(self) -> dict[str, Fitting[Recipe]]:
        """The fitting of each kind, as the calibration of its bank has it."""
        return {kind: Fitting(self.setting, kind=kind, seed=self.seed, recipe=self.recipe) for kind in self.kinds}

    @property
    def description(self) -> dict[str, Any]:
        """Plain values for fingerprints."""
        recipe = self.recipe.model_dump(mode="json")
        return {"kinds": list(self.kinds), "setting": str(self.setting), "seed": self.seed, "recipe": recipe}
