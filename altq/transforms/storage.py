"""Transforms as tensors: a short description of the structure, and the tensors that its constructor takes."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from altq.transforms.affine import Affine
from altq.transforms.balance import Balance
from altq.transforms.hadamard import Hadamard
from altq.transforms.heads import HeadAffine, HeadMixing
from altq.transforms.identity import Identity
from altq.transforms.rotation import Rotation
from altq.transforms.scaling import Scaled, Scaling
from altq.transforms.transform import Transform

_CLASSES: dict[str, Callable[..., Transform]] = {
    c.__name__: c for c in (Affine, Balance, Hadamard, HeadAffine, HeadMixing, Identity, Rotation, Scaling)
}


def store(transform: Transform) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(description, tensors) of a transform; the description is plain JSON."""
    if isinstance(transform, Scaled):
        description, tensors = store(transform.online)
        return {"type": "Scaled", "online": description}, tensors | {"scale": transform.scaling.scale.detach()}
    tensors = {"scale": transform.scale.detach()} if isinstance(transform, Scaling) else transform.state_dict()
    return {"type": type(transform).__name__, "size": transform.size}, dict(tensors)


def check_description(description: dict[str, Any], site: str) -> None:
    """Raise ValueError for a description that `restore` cannot rebuild."""
    kind = description.get("type")
    if kind == "Scaled" and isinstance(description.get("online"), dict):
        check_description(description["online"], site)
        return
    if not isinstance(kind, str) or kind not in _CLASSES:
        raise ValueError(f"site {site} has a transform of type {kind!r}, which is not known")
    if not isinstance(description.get("size", 1), int):
        raise ValueError(f"site {site} has a transform of size {description['size']!r}")


def restore(description: dict[str, Any], tensors: dict[str, Tensor]) -> Transform:
    """Rebuild a transform from the description and tensors that `store` returned."""
    if description["type"] == "Scaled":
        online = {name: tensor for name, tensor in tensors.items() if name != "scale"}
        return Scaled(Scaling(tensors["scale"]), restore(description["online"], online))
    kind = _CLASSES[description["type"]]
    if kind in (Identity, HeadMixing):
        return kind(**tensors, size=description["size"])
    return kind(**tensors)
