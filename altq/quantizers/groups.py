"""Groups of channels: runs of a row that have a scale, and a zero point, of their own; the last run may be short."""

from torch import Tensor
from torch.nn import functional as F


def num_groups(width: int, group: int | None) -> int:
    """How many groups a row of `width` channels has; 1 where a row is not split (None)."""
    return 1 if group is None else -(-width // group)


def split_groups(x: Tensor, group: int | None) -> Tensor:
    """Split the last axis: [..., d] -> [..., groups, group], the short last one filled up with zeros; x itself for None.

    Zeros change neither the largest magnitude of a group nor a range that holds zero.
    """
    if group is None:
        return x
    return F.pad(x, (0, -x.shape[-1] % group)).unflatten(-1, (-1, group))


def join_groups(x: Tensor, width: int, group: int | None) -> Tensor:
    """Undo `split_groups` of a row of `width` channels: [..., groups, group] -> [..., width]."""
    return x if group is None else x.flatten(-2)[..., :width]


def spread_groups(values: Tensor, width: int, group: int | None) -> Tensor:
    """Give each channel the value of its group: [..., groups] -> [..., width]; a single value broadcasts as it is."""
    return values if group is None else values.repeat_interleave(group, dim=-1)[..., :width]


def moments_of_groups(moment: Tensor, group: int | None) -> Tensor:
    """The diagonal blocks of a second moment: [d, d] -> [groups, group, group], padded with zeros; itself for None."""
    if group is None:
        return moment
    padding = -len(moment) % group
    blocks = F.pad(moment, (0, padding, 0, padding)).unflatten(0, (-1, group)).unflatten(-1, (-1, group))
    return blocks.diagonal(dim1=0, dim2=2).movedim(-1, 0)
