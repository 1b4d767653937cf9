"""What of a transform stays in the forward pass of a checkpoint, and what folds into the weights around its site."""

from torch import Tensor

from altq.calibration.sublayer import QuantizedSublayer
from altq.transforms.identity import Identity
from altq.transforms.scaling import Scaled, Scaling
from altq.transforms.transform import Transform


def online(transform: Transform) -> Transform:
    """The part of a transform that stays in the forward pass: all but its scaling."""
    if isinstance(transform, Scaled):
        return transform.online
    return Identity(transform.size) if isinstance(transform, Scaling) else transform


def online_transforms(quantized: QuantizedSublayer) -> dict[str, Transform]:
    """The parts of a sublayer's transforms that stay in its forward pass, by site.

    They are all but the scalings; that of the selected site stays, too, where no norm lies before it.
    """
    half = quantized.sublayer.half
    kept = None if half.norm else half.selected_site
    return {site: t if site == kept else online(t) for site, t in quantized.transforms.items()}


def scaling_of(transform: Transform) -> Tensor | None:
    """The scaling [size] of a transform, which folds into what lies before its site; None where it has none."""
    if isinstance(transform, Scaled):
        transform = transform.scaling
    return transform.scale if isinstance(transform, Scaling) else None


def rows_before_down(quantized: QuantizedSublayer) -> dict[str, Tensor]:
    """The scaling of down's input by the projection whose rows it multiplies: up's; empty where there is none.

    A diagonal behind up's rows changes their scales and none of their codes.
    """
    scaling = scaling_of(quantized.transforms["down"]) if "down" in quantized.transforms else None
    return {} if scaling is None else {quantized.sublayer.half.input_sites["gate_up"][-1]: scaling}
