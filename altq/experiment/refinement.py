"""Options of refinement. Imports nothing heavy, since the workflow reads it."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from altq.experiment.bounds import Beta, NumSteps, NumWindows, Rate
from altq.experiment.section import Section

Steps = Annotated[NumSteps, Field(ge=1)]


class RefinementRecipe(Section):
    """How the scales, clipping factors and gains of a checkpoint are trained on the full-precision model's logits."""

    steps: Steps = Field(16, description="optimiser steps (Adam), over which the rate falls as a cosine")
    windows_per_step: NumWindows = Field(4, description="windows in each step")
    rate: Rate = Field(2e-3, description="learning rate of the logarithms of scales, clipping factors and gains")
    betas: tuple[Beta, Beta] = Field((0.9, 0.95), description="Adam's decay rates; few steps want short memories")
    judged_every: Steps = Field(4, description="steps between two looks at the held-out windows; the last is looked at")


class RefinementOptions(RefinementRecipe):
    """The refinement of every method that is listed with `_refined` behind its name; off where the section is absent."""

    windows: NumWindows = Field(64, description="windows of the calibration text that steps are taken on, in turn")
    held_out_windows: NumWindows = Field(8, description="windows beside them, by whose loss the best step is kept")

    @property
    def recipe(self) -> RefinementRecipe:
        """The options without the number of windows, which are drawn before."""
        return RefinementRecipe.model_validate({name: getattr(self, name) for name in RefinementRecipe.model_fields})

    @model_validator(mode="after")
    def _has_windows_for_a_step(self) -> Self:
        if self.windows_per_step > self.windows:
            raise ValueError(f"windows_per_step is {self.windows_per_step}, but there are {self.windows} windows")
        return self
