"""The recipe of a bank that is fitted unit by unit. Imports nothing heavy, since the workflow reads it."""

from operator import not_
from typing import Literal, Self

from pydantic import Field, model_validator

from altq.experiment.bounds import Beta, Factor, NumSteps, NumWindows, Rate, Size
from altq.experiment.section import Section


class Recipe(Section):
    """How the transforms and clipping factors of a bank are fitted, each unit against the full-precision model."""

    unit: Literal["sublayer", "block"] = Field(
        "sublayer", description="what is fitted together: a sublayer, or both halves of a block against its output"
    )
    start: Literal["balance", "hadamard", "random", "cayley"] = Field(
        "balance",
        description="starting point: closed form, Hadamard, random orthogonal (the paper's), or its Cayley image "
        "(FlatQuant's)",
    )
    structure: Literal["kronecker", "full"] = Field(
        "kronecker", description="rotations: two Kronecker factors (same online cost as affine) or one full matrix"
    )
    longest_run: Size = Field(
        128, description="`balance`: channels that one of its matrices mixes at most; longer is better and slower"
    )
    scaling: Literal["none", "ones", "balance", "smooth"] = Field(
        "balance",
        description="the per-channel scaling that stands before the kind at inputs of linear layers: none, or one that "
        "starts at 1, in closed form, or as SmoothQuant's",
    )
    smooth_alpha: float = Field(
        0.5, ge=0, le=1, description="`smooth` scaling: how far it moves peaks from inputs (1: all) to weights"
    )
    other_sites: Literal["affine", "scaling"] = Field(
        "affine",
        description="at the sites that no selection chooses for (o, down, key, value): affine transforms, or nothing "
        "but scalings that fold (o, value, down)",
    )
    initial_clip: float = Field(
        0.982, gt=0, le=1, description="clipping factors before search and steps; FlatQuant's is sigmoid(4) = 0.982"
    )
    clip_search: bool = Field(True, description="search clipping factors on a grid before any step")
    search_windows: NumWindows = Field(2, description="calibration windows that the activation clip search looks at")
    signed_scale: bool = Field(
        True, description="scales are negative where the largest magnitude is positive: Eq. 2 has one more code there"
    )
    zero_point: bool = Field(
        False,
        exclude_if=not_,
        description="weights with a zero point: codes from the smallest to the largest value of a row or group",
    )
    steps: NumSteps = Field(8, description="optimiser steps for each unit")
    fitted: list[Literal["attention", "ffn"]] = Field(
        ["attention"], description="halves that steps are spent on; ffn gains next to nothing over its closed form"
    )
    windows_per_step: NumWindows = Field(4, description="calibration windows in each step")
    learning_rate: Rate = Field(2e-3, description="of AdamW and Riemannian Adam on the transforms")
    clip_rate_factor: Factor = Field(
        10.0, gt=0, description="learning rate of clipping factors over that of transforms"
    )
    betas: tuple[Beta, Beta] = Field((0.5, 0.9), description="Adam's decay rates; few steps want short memories")
    weight_decay: Factor = Field(0.0, description="AdamW's weight decay")

    @property
    def calibration_windows(self) -> dict[str, int]:
        """See altq/experiment/windows.py."""
        windows = {"search_windows": self.search_windows} if self.clip_search or self.steps else {}
        return windows | ({"windows_per_step": self.windows_per_step} if self.steps else {})

    @model_validator(mode="after")
    def _scalings_take_no_steps(self) -> Self:
        if self.other_sites == "scaling" and self.steps:
            raise ValueError(f"other_sites: scaling is not fitted by steps, but steps is {self.steps}; set steps: 0")
        return self
