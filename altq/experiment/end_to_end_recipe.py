"""The recipe of a bank that is fitted through the whole model. Imports nothing heavy, since the workflow reads it."""

from operator import not_
from typing import Literal, Self

from pydantic import Field, model_validator

from altq.experiment.bounds import NumSteps, NumWindows, Rate, Size
from altq.experiment.section import Section


class EndToEndRecipe(Section):
    """How a rotation of the residual stream, and what goes with it in every sublayer, is fitted end to end.

    The residual stream, keys, values, the heads of o's input and down's input start with Hadamard rotations. Weights
    stay in full precision meanwhile; activations and cache are quantized.
    """

    trained: list[Literal["residual", "value", "scaling"]] = Field(
        ["residual", "value"],
        description="what steps are taken on: the rotation of the residual stream, those of the values, and a scaling "
        "at qkv, gate_up, down and value",
    )
    shared_value: bool = Field(
        False, description="one rotation of the values for all heads of a block instead of one for each"
    )
    loss: Literal["cross_entropy", "kl_top"] = Field(
        "cross_entropy",
        description="next-token cross-entropy, or the KL divergence over the full-precision model's likeliest tokens",
    )
    top_k: Size = Field(1000, description="kl_top: how many tokens of the vocabulary it looks at, at most")
    optimiser: Literal["cayley_sgd", "riemannian_adam"] = Field("riemannian_adam", description="of the rotations")
    rotation_rate: Rate = Field(0.02, description="learning rate of rotations")
    scaling_rate: Rate = Field(0.002, description="learning rate of scalings (Adam)")
    steps: NumSteps = Field(8, description="optimiser steps")
    windows_per_step: NumWindows = Field(4, description="calibration windows in each step")
    windows_in_memory: NumWindows = Field(4, description="windows passed at a time; gradients of a step accumulate")
    activation_clip: float = Field(1.0, gt=0, le=1, description="clipping factor of activations")
    cache_clip: float = Field(1.0, gt=0, le=1, description="clipping factor of keys and values")
    asymmetric: bool = Field(False, description="activations with a zero point, as the cache has one")
    zero_point: bool = Field(
        False,
        exclude_if=not_,
        description="weights with a zero point: codes from the smallest to the largest value of a row or group",
    )
    weight_clip: bool = Field(True, description="search each weight row's clipping factor by its squared error")

    @property
    def calibration_windows(self) -> dict[str, int]:
        """See altq/experiment/windows.py."""
        return {"windows_per_step": self.windows_per_step} if self.steps else {}

    @model_validator(mode="after")
    def _steps_train_something(self) -> Self:
        if self.steps and not self.trained:
            raise ValueError(f"trained is empty, but steps is {self.steps}; set steps: 0 or say what is trained")
        return self
