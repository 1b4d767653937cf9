"""Options of the rounding of weights. Imports nothing heavy, since the workflow reads it."""

from typing import Literal

from pydantic import Field

from altq.experiment.bounds import Factor, NumWindows, Size
from altq.experiment.section import Section


class RoundingOptions(Section):
    """How weights are rounded once their transforms and clipping are fixed."""

    weights: Literal["gptq", "rtn"] = Field("gptq", description="GPTQ, or round to nearest")
    windows: NumWindows = Field(16, description="GPTQ: calibration windows that Hessians are summed over")
    block_size: Size = Field(64, description="GPTQ: columns updated together")
    damping: Factor = Field(0.01, gt=0, description="GPTQ: ridge on the Hessian, as a share of its mean diagonal")
    act_order: bool = Field(False, description="GPTQ: visit columns by decreasing Hessian diagonal")

    @property
    def calibration_windows(self) -> dict[str, int]:
        """See altq/experiment/windows.py."""
        return {"windows": self.windows} if self.weights == "gptq" else {}
