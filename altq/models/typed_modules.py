"""torch's containers of modules, and modules by name, with the types that torch leaves open."""

from collections.abc import ItemsView, Iterable, Iterator, Mapping, ValuesView
from typing import TYPE_CHECKING, Generic, TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)


class TypedModuleDict(nn.ModuleDict, Generic[M]):
    """A ModuleDict whose values are all of one class; the declarations below are for type checkers alone."""

    if TYPE_CHECKING:

        def __init__(self, modules: Mapping[str, M] | None = None) -> None: ...
        def __getitem__(self, key: str) -> M: ...
        def items(self) -> ItemsView[str, M]: ...
        def values(self) -> ValuesView[M]: ...


class TypedModuleList(nn.ModuleList, Generic[M]):
    """A ModuleList whose items are all of one class; the declarations below are for type checkers alone."""

    if TYPE_CHECKING:

        def __init__(self, modules: Iterable[M] | None = None) -> None: ...
        def __getitem__(self, idx: int) -> M: ...  # type: ignore[override]  # nothing here takes a slice
        def __iter__(self) -> Iterator[M]: ...


def linear_layers(block: nn.Module, names: Iterable[str]) -> dict[str, nn.Linear]:
    """Linear layers of a block, by their names relative to it; TypeError for a module of another class."""
    layers = {}
    for name in names:
        module = block.get_submodule(name)
        if not isinstance(module, nn.Linear):
            raise TypeError(f"{name} is a {type(module).__name__}, not a linear layer")
        layers[name] = module
    return layers
