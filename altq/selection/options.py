"""Options of the outlier-guided heuristic, checked before any work begins."""

from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class TailOptions(BaseModel):
    """How many layers of one half get a rotation, and how they are split between the two tails of the kurtosis."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

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


class HeuristicOptions(BaseModel):
    """The outlier-guided heuristic (Eq. 8-15) as configured; the defaults are the paper's section 4.1."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    attention: AttentionOptions = AttentionOptions()
    ffn: FfnOptions = FfnOptions()
