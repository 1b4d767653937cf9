"""A fitting: what a bank is. With `Subject`, on which it is carried out, it is all that calibration is told."""

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from altq.experiment.end_to_end_recipe import EndToEndRecipe
from altq.experiment.recipe import Recipe
from altq.experiment.setting import Setting

AnyRecipe = TypeVar("AnyRecipe", Recipe, EndToEndRecipe)


@dataclass(frozen=True)
class Fitting(Generic[AnyRecipe]):
    """Bit widths, kind of transformation, seed of the random starts, and the recipe by which a bank is fitted.

    kind: at the selected site of every sublayer; of a fitting end to end see `end_to_end`.
    """

    setting: Setting
    kind: str
    seed: int
    recipe: AnyRecipe

    @classmethod
    def end_to_end(cls, *, setting: Setting, seed: int, recipe: EndToEndRecipe) -> "Fitting[EndToEndRecipe]":
        """Fit the residual stream's rotation: at the selected sites stands a scaling where one is trained, or nothing."""
        kind = "scaling" if "scaling" in recipe.trained else "identity"
        return Fitting(setting=setting, kind=kind, seed=seed, recipe=recipe)

    @property
    def description(self) -> dict[str, Any]:
        """Plain values, as the index of a bank and its entries' fingerprints have them."""
        recipe = self.recipe.model_dump(mode="json")
        return {"setting": str(self.setting), "kind": self.kind, "seed": self.seed, "recipe": recipe}

    def __str__(self) -> str:
        return f"{self.kind} at {self.setting}"
