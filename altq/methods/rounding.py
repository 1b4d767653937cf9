"""How weights are rounded, as data. Imports nothing heavy, since the workflow reads it."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class RoundingOptions(BaseModel):
    """How weights are rounded once their transforms and clipping are fixed."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    weights: Literal["gptq", "rtn"] = Field("gptq", description="GPTQ, or round to nearest")
    windows: int = Field(16, ge=1, description="GPTQ: calibration windows that Hessians are summed over")
    block_size: int = Field(64, ge=1, description="GPTQ: columns updated together")
    damping: float = Field(0.01, gt=0, description="GPTQ: ridge on the Hessian, as a share of its mean diagonal")
    act_order: bool = Field(False, description="GPTQ: visit columns by decreasing Hessian diagonal")
