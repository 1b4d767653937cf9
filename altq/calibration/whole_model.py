"""The whole model in a rotated residual stream, with gradients for its rotations: what end-to-end calibration fits.

Weights are resident and stay as they are; each block folds the rotations into them as it runs, and runs again in the
backward pass (gradient checkpointing), so that memory is that of one block besides the weights.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from altq.calibration.fitting import Fitting
from altq.calibration.start_rotated import start_rotated_sublayer
from altq.calibration.subject import Subject
from altq.calibration.sublayer import QuantizedSublayer
from altq.experiment.end_to_end_recipe import EndToEndRecipe
from altq.experiment.kinds import HALVES
from altq.experiment.setting import FULL_PRECISION_BITS
from altq.models.logits import make_logits
from altq.models.residual import fold_gain, require_rotatable, rotate_projections
from altq.models.sublayer import Sublayer
from altq.models.typed_modules import TypedModuleList
from altq.quantizers.quantizer import Quantizers
from altq.runtime.device import is_pinned_for
from altq.runtime.precision import reduced_linear
from altq.transforms.hadamard import randomized_hadamard
from altq.transforms.heads import HeadRotation
from altq.transforms.rotation import stiefel_parameter
from altq.transforms.scaling import Scaling


class WholeModel(nn.Module):
    """The model with its residual stream rotated by `rotation` [hidden, hidden], activations and cache quantized.

    Weights are at full precision. `sublayers` are in the order in which they run. What the recipe trains is held in
    float32 or better, whatever the type of the weights, and alone requires gradients. streamed: whether the weights of
    blocks lie in main memory, from which each block takes its own as it runs, forward and backward; a model that a GPU
    does not hold is fitted so, to the same bits. ValueError for a family whose stream cannot be rotated.
    """

    def __init__(self, subject: Subject, fitting: Fitting[EndToEndRecipe], *, streamed: bool = False) -> None:
        super().__init__()
        skeleton, recipe = subject.skeleton, fitting.recipe
        config, family = skeleton.config, skeleton.family
        generator = torch.Generator().manual_seed(fitting.seed)
        require_rotatable(family)
        self.quantizers = Quantizers.at(
            fitting.setting, signed=False, asymmetric=recipe.asymmetric, zero_point=recipe.zero_point
        )
        device, dtype = skeleton.device, torch.promote_types(skeleton.dtype, torch.float32)
        self.rotation = stiefel_parameter(randomized_hadamard(config.hidden_size, generator).to(device, dtype))
        self.sublayers: TypedModuleList[QuantizedSublayer] = TypedModuleList()
        for index in range(skeleton.num_blocks):
            block = skeleton.block(index)
            for name in HALVES:
                fold_gain(block, family.half(name), family.norm_offset)
                sublayer = Sublayer(block, family, name)
                transforms = start_rotated_sublayer(
                    sublayer, kv_heads=config.num_key_value_heads, recipe=recipe, generator=generator
                )
                transforms = {site: transform.to(device, dtype) for site, transform in transforms.items()}
                full = replace(self.quantizers.weights, bits=FULL_PRECISION_BITS)  # clipping factors keep their shape
                quantizers = replace(self.quantizers, weights=full)
                quantized = QuantizedSublayer(sublayer, transforms, quantizers).to(device, dtype)
                if streamed:
                    quantized.weights = {name: in_main_memory(weight) for name, weight in quantized.weights.items()}
                self.sublayers.append(quantized)
        self._weights = [(quantized.weights, quantized.biases) for quantized in self.sublayers]
        for quantized in self.sublayers:
            for clip in quantized.activation_clip.values():
                clip.set(recipe.activation_clip)
            for clip in quantized.cache_clip.values():
                clip.set(recipe.cache_clip)
        self._train_only(recipe.trained)
        self._arguments = subject.arguments
        norm, head = skeleton.model.get_submodule(family.last_norm), skeleton.model.get_output_embeddings()
        norm_weight = norm.get_parameter("weight")
        gain = family.norm_offset + norm_weight.double()
        weight = (head.weight.double() * gain).to(skeleton.dtype)
        skeleton.model.set_output_embeddings(_ReducedHead(weight))
        norm_weight.fill_(1 - family.norm_offset)
        # Kept in a tuple so that nn.Module does not register them as children.
        self._skeleton_and_norm = skeleton, norm

    def _train_only(self, trained: Sequence[str]) -> None:
        self.requires_grad_(False)
        self.rotation.requires_grad_("residual" in trained)
        for module in self.modules():
            if isinstance(module, HeadRotation):
                module.rotation.requires_grad_("value" in trained)
            if isinstance(module, Scaling | HeadRotation):
                module.log_scale.requires_grad_("scaling" in trained)

    def forward(self, tokens: Tensor) -> Tensor:
        """The normed hidden states that the head reads, in the basis of the original: [windows, length, hidden]."""
        skeleton, _ = self._skeleton_and_norm
        hidden = skeleton.embed(tokens).to(self.rotation.dtype) @ self.rotation
        for block in range(len(self.sublayers) // 2):
            hidden = checkpoint(self._run_block, block, hidden, use_reentrant=False)
        self.release()
        return self.normed(hidden) @ self.rotation.T

    def _run_block(self, block: int, hidden: Tensor) -> Tensor:
        self.release()
        for s in (2 * block, 2 * block + 1):
            quantized = self.sublayers[s]
            self.rotate(s)
            quantized.prepare()
            hidden = hidden + quantized(quantized.sublayer.norm(hidden), self._arguments[block])
        return hidden

    def release(self) -> None:
        """Let go of rotated and folded weights: the next block makes its own, also in the backward pass."""
        for quantized, (weights, biases) in zip(self.sublayers, self._weights, strict=True):
            quantized.weights, quantized.biases = weights, biases
            for projection in quantized.projections.values():
                projection.weight = projection.bias = None

    def rotate(self, s: int) -> None:
        """Give sublayer s its weights in the stream as it is rotated now."""
        quantized = self.sublayers[s]
        weights, biases = self._weights[s]
        device, dtype, half = self.rotation.device, self.rotation.dtype, quantized.sublayer.half
        weights = {name: weight.to(device, dtype) for name, weight in weights.items()}
        biases = {name: None if bias is None else bias.to(dtype) for name, bias in biases.items()}
        quantized.weights, quantized.biases = rotate_projections(half, weights, biases=biases, rotation=self.rotation)

    def normed(self, hidden: Tensor) -> Tensor:
        """The last norm, with gain one: [..., hidden]."""
        _, norm = self._skeleton_and_norm
        return norm(hidden)

    def logits(self, normed: Tensor) -> Tensor:
        """[tokens, hidden] in the basis of the original -> [tokens, vocabulary]."""
        skeleton, _ = self._skeleton_and_norm
        return make_logits(skeleton.model, normed)


def in_main_memory(tensor: Tensor) -> Tensor:
    """A copy in main memory, from which a GPU copies at full speed."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=is_pinned_for(tensor.device)).copy_(tensor)


class _ReducedHead(nn.Module):
    """A head [vocabulary, hidden] without bias, which multiplies as calibration does."""

    weight: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)

    def forward(self, x: Tensor) -> Tensor:
        return reduced_linear(x, self.weight.to(x.dtype))
