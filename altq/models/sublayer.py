"""A sublayer as transformers runs it: optional norm, attention or feed-forward module, optional norm and factor of its output."""

from typing import Any

from torch import Tensor, nn

from altq.models.family import Family, Half
from altq.models.joints import Projection, SharedInput
from altq.models.typed_modules import linear_layers


class Sublayer:
    """The parts of a sublayer inside a block module. The block's residual stream is x + sublayer(x)."""

    def __init__(self, block: nn.Module, family: Family, half: str) -> None:
        self.name = half
        self.half: Half = family.half(half)
        self.block = block
        self.device = next(block.parameters()).device
        self.norm = _norm(block, self.half.norm)
        self.module = block.get_submodule(self.half.module)
        self.output_norm = _norm(block, self.half.output_norm)

    def after_norm(self, normed: Tensor, arguments: dict[str, Any]) -> Tensor:
        """Output that is added to the residual stream, from the norm's output: [windows, length, hidden]."""
        return self.addition(self._run(normed, arguments))

    def addition(self, output: Tensor) -> Tensor:
        """The addition to the residual stream for an output of the module; both [windows, length, hidden]."""
        normed = self.output_norm(output)
        name = self.half.output_multiplier
        return normed if name is None else normed * getattr(self.block, name)

    def before_output(self, normed: Tensor, arguments: dict[str, Any]) -> Tensor:
        """The input of the last projection (o, down), from the norm's output: the module runs without it."""
        *_, name = self.half.projections
        projection = self.block.get_submodule(name)
        self.block.set_submodule(name, nn.Identity())
        try:
            return self._run(normed, arguments)
        finally:
            self.block.set_submodule(name, projection)

    def _run(self, normed: Tensor, arguments: dict[str, Any]) -> Tensor:
        if self.name == "attention":
            output, _ = self.module(hidden_states=normed, **arguments)
            return output
        return self.module(normed)

    def head_dim(self, kv_heads: int) -> int:
        """Channels of a head of attention, from the rows of k."""
        _, key, _ = self.half.input_sites["qkv"]
        return self.linears()[key].out_features // kv_heads

    def linears(self) -> dict[str, nn.Linear]:
        """The linear layers that `install` replaces, by their names relative to the block."""
        return linear_layers(self.block, self.half.projections)

    def install(self, shared: dict[str, SharedInput], **options: Any) -> dict[str, Projection]:
        """Put a Projection in place of each linear layer; `shared` has the joint of each input site."""
        projections = {}
        for site, names in self.half.input_sites.items():
            for name, linear in linear_layers(self.block, names).items():
                projections[name] = Projection(linear, shared[site], **options)
                self.block.set_submodule(name, projections[name])
        return projections


def _norm(block: nn.Module, name: str | None) -> nn.Module:
    return nn.Identity() if name is None else block.get_submodule(name)
