"""Options of the policies, checked before any work begins. Imports nothing heavy, since the workflow reads it."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from altq.experiment.bounds import AtMost, Factor, NumSteps, NumWindows, Rate
from altq.experiment.kinds import KINDS
from altq.experiment.section import Section


class TailOptions(Section):
    """How many layers of one half get a rotation, and how they are split between the two tails of the kurtosis."""

    model_config = ConfigDict(strict=True)

    default_share: ClassVar[float]
    z_mass_limits: ClassVar[tuple[float, float]]

    share: float | None = Field(None, ge=0, le=1, description="L as a share of the layers, rounded half up")
    count: int | None = Field(None, ge=0, description="L itself; give either share or count")
    beta: float = Field(..., ge=0, le=1, description="share of the L layers that comes from the upper tail (Eq. 10)")
    beta_rule: Literal["fixed", "z_mass"] = Field("fixed", description="z_mass computes beta by Eq. 11-12 instead")
    score: Literal["sum", "concat"]

    @model_validator(mode="before")
    @classmethod
    def _one_of_share_and_count(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        share, count = values.get("share"), values.get("count")
        if share is not None and count is not None:
            raise ValueError(f"share: {share} and count: {count} both say how many layers rotate; give one of them")
        return {**values, "share": cls.default_share} if share is None and count is None else values


class AttentionOptions(TailOptions):
    """Attention: 0.7 n layers, mostly of the lower tail (section 4.1)."""

    default_share: ClassVar[float] = 0.7
    z_mass_limits: ClassVar[tuple[float, float]] = (0.1, 0.3)

    beta: float = Field(0.1, ge=0, le=1, description="share of the L layers that comes from the upper tail (Eq. 10)")
    score: Literal["sum"] = Field("sum", description="sum of the kurtosis of Q, K and V (section 3.3)")


class FfnOptions(TailOptions):
    """Feed-forward: 0.5 n layers, mostly of the upper tail (section 4.1)."""

    default_share: ClassVar[float] = 0.5
    z_mass_limits: ClassVar[tuple[float, float]] = (0.7, 0.9)

    beta: float = Field(0.9, ge=0, le=1, description="share of the L layers that comes from the upper tail (Eq. 10)")
    score: Literal["concat", "sum"] = Field(
        "concat", description="kurtosis of gate and up flattened together, or the sum of both"
    )


class HeuristicOptions(Section):
    """The outlier-guided heuristic (Eq. 8-15) as configured; the defaults are the paper's section 4.1."""

    attention: AttentionOptions = AttentionOptions()
    ffn: FfnOptions = FfnOptions()


class SearchOptions(Section):
    """The differentiable search (Eq. 5-7); transforms start and learn as the recipe says."""

    entropy_weight: Factor = Field(0.01, description="lambda of Eq. 6; the reconstruction error begins at 1")
    steps: Annotated[NumSteps, Field(ge=1)] = Field(16, description="optimiser steps for each sublayer")
    windows_per_step: NumWindows = Field(2, description="calibration windows in each step")
    mixture_rate: Rate = Field(0.1, description="learning rate of alpha (AdamW); many steps want 0.005")

    @property
    def calibration_windows(self) -> dict[str, int]:
        """See altq/experiment/windows.py."""
        return {"windows_per_step": self.windows_per_step}


class Grid(Section):
    """The points of Table 6, in its order."""

    points: tuple[HeuristicOptions, ...] = Field(description="the heuristic's options at each point")

    @property
    def named(self) -> dict[str, HeuristicOptions]:
        """The points by the names of their selections."""
        return {f"grid{number}": point for number, point in enumerate(self.points)}


class SelectionOptions(Section):
    """How a kind is chosen for each sublayer."""

    candidates: tuple[Literal[KINDS], ...] = Field(  # type: ignore[valid-type]  # pydantic reads the tuple
        ("affine", "rotation"), min_length=2, description="kinds that every policy but the heuristic chooses from"
    )
    heuristic: HeuristicOptions = HeuristicOptions()
    search: SearchOptions = SearchOptions()
    held_out_windows: NumWindows = Field(
        8, description="windows beside the calibration windows that oracle and probe see"
    )
    probe_share: float = Field(
        0.1, gt=0, le=1, description="of the recipe's steps (rounded up) that the probe's banks take"
    )
    num_random: Annotated[int, AtMost(1000, "each is assembled and evaluated")] = Field(
        20, ge=2, description="random selections of Table 1"
    )

    @field_validator("candidates")
    @classmethod
    def _distinct_candidates(cls, candidates: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(candidates)) < len(candidates):
            raise ValueError(f"a kind is listed twice: {', '.join(candidates)}")
        return candidates
