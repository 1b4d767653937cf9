"""The recipe: calibration hyper-parameters. Imports nothing heavy, since the workflow reads it."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Recipe(BaseModel):
    """How the transforms and clipping factors of a sublayer are fitted."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    start: Literal["balance", "hadamard", "random"] = Field(
        "balance", description="starting point: closed form, Hadamard, or random orthogonal (the paper's)"
    )
    structure: Literal["kronecker", "full"] = Field(
        "kronecker", description="rotations: two Kronecker factors (same online cost as affine) or one full matrix"
    )
    longest_run: int = Field(
        128, ge=1, description="`balance`: channels that one of its matrices mixes at most; longer is better and slower"
    )
    scaling: bool = Field(True, description="combine a per-channel scaling with the kind at inputs of linear layers")
    clip_search: bool = Field(True, description="search clipping factors on a grid before any step")
    search_windows: int = Field(2, ge=1, description="calibration windows that the activation clip search looks at")
    signed_scale: bool = Field(
        True, description="scales are negative where the largest magnitude is positive: Eq. 2 has one more code there"
    )
    steps: int = Field(8, ge=0, description="optimiser steps for each sublayer")
    fitted: list[Literal["attention", "ffn"]] = Field(
        ["attention"], description="halves that steps are spent on; ffn gains next to nothing over its closed form"
    )
    windows_per_step: int = Field(4, ge=1, description="calibration windows in each step")
    learning_rate: float = Field(2e-3, gt=0, description="of AdamW and Riemannian Adam on the transforms")
    clip_rate_factor: float = Field(10.0, gt=0, description="learning rate of clipping factors over that of transforms")
    betas: tuple[float, float] = Field((0.5, 0.9), description="Adam's decay rates; few steps want short memories")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's weight decay")


class RoundingOptions(BaseModel):
    """How weights are rounded once their transforms and clipping are fixed."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    weights: Literal["gptq", "rtn"] = Field("gptq", description="GPTQ, or round to nearest")
    windows: int = Field(16, ge=1, description="GPTQ: calibration windows that Hessians are summed over")
    block_size: int = Field(64, ge=1, description="GPTQ: columns updated together")
    damping: float = Field(0.01, gt=0, description="GPTQ: ridge on the Hessian, as a share of its mean diagonal")
    act_order: bool = Field(False, description="GPTQ: visit columns by decreasing Hessian diagonal")
