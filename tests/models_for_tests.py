"""Tiny models of every family with random weights, and what calibration needs of them, made on the spot."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    Phi3Config,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)

from altq.calibration.by_unit import calibrate_bank
from altq.calibration.end_to_end import calibrate_end_to_end
from altq.calibration.fitting import Fitting
from altq.calibration.recording import record_states
from altq.calibration.subject import Subject
from altq.checkpoint.assembly import assemble
from altq.checkpoint.quantized_model import load_model
from altq.checkpoint.scheme import Scheme
from altq.evaluation.perplexity import window_losses
from altq.experiment.end_to_end_recipe import EndToEndRecipe
from altq.experiment.recipe import Recipe
from altq.experiment.setting import Setting
from altq.models.family import family_of
from altq.models.skeleton import Skeleton
from altq.runtime.resume import Scratch
from altq.selection.selection import Decision, Selection

KINDS = ("identity", "scaling", "hadamard", "rotation", "affine", "balance")
VOCAB = 48
W4A4K4V4 = Setting(4, 4, 4, 4)
NUM_BLOCKS = 2

# Sizes of every sort: 6, 10, 26 and 30 have no Hadamard matrix, 13 and 29 are prime, 36 splits into 6 x 6.
MODELS: dict[str, tuple[type[PretrainedConfig], dict]] = {
    "llama_gqa": (LlamaConfig, {"hidden_size": 36, "intermediate_size": 60, "heads": (6, 3)}),
    "llama_tied": (LlamaConfig, {"hidden_size": 32, "intermediate_size": 44, "heads": (4, 4), "tied": True}),
    "llama_prime": (LlamaConfig, {"hidden_size": 26, "intermediate_size": 29, "heads": (13, 1)}),
    "llama_biases": (
        LlamaConfig,
        {"hidden_size": 20, "intermediate_size": 28, "heads": (5, 5), "attention_bias": True, "mlp_bias": True},
    ),
    "qwen2": (Qwen2Config, {"hidden_size": 36, "intermediate_size": 60, "heads": (6, 2), "tied": True}),
    "qwen3": (Qwen3Config, {"hidden_size": 30, "intermediate_size": 42, "heads": (4, 2), "head_dim": 6}),
    "mistral": (
        MistralConfig, {"hidden_size": 28, "intermediate_size": 36, "heads": (4, 1), "head_dim": 8, "sliding_window": 5}
    ),
    "smollm3": (
        SmolLM3Config,
        {
            "hidden_size": 24, "intermediate_size": 52, "heads": (6, 3), "no_rope_layers": [1, 0], "tied": True,
            "sliding_window": 5, "use_sliding_window": True,
        },
    ),
    "granite": (
        GraniteConfig,
        {
            "hidden_size": 30, "intermediate_size": 44, "heads": (5, 1), "embedding_multiplier": 3.0,
            "attention_multiplier": 0.3, "residual_multiplier": 0.4, "logits_scaling": 2.5, "mlp_bias": True,
        },
    ),
    "phi3": (
        Phi3Config,
        {
            "hidden_size": 40, "intermediate_size": 56, "heads": (10, 2), "sliding_window": 5,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
        },
    ),
    "olmo2": (
        Olmo2Config, {"hidden_size": 40, "intermediate_size": 50, "heads": (4, 2), "attention_bias": True, "tied": True}
    ),
    "gemma2": (
        Gemma2Config,
        {
            "hidden_size": 28, "intermediate_size": 34, "heads": (4, 2), "head_dim": 6, "query_pre_attn_scalar": 7,
            "sliding_window": 5, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0, "tied": True,
        },
    ),
    "gemma3_text": (
        Gemma3TextConfig,
        {
            "hidden_size": 24, "intermediate_size": 40, "heads": (4, 2), "head_dim": 10, "query_pre_attn_scalar": 10,
            "sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"], "tied": True,
        },
    ),
}  # fmt: skip

ROTATABLE = [name for name, (make, _) in MODELS.items() if not family_of(make.model_type).attention.output_norm]
"""Models whose residual stream can be rotated."""


def tiny_config(name: str, **changes) -> PretrainedConfig:
    """The configuration of one of MODELS, with other values for some of its fields."""
    make_config, sizes = MODELS[name]
    sizes = dict(sizes)
    heads, kv_heads = sizes.pop("heads")
    fields = dict(
        num_attention_heads=heads, num_key_value_heads=kv_heads, tie_word_embeddings=sizes.pop("tied", False),
        vocab_size=VOCAB, num_hidden_layers=NUM_BLOCKS, bos_token_id=0, eos_token_id=1, pad_token_id=None,
        dtype="float32", **sizes,
    )  # fmt: skip
    return make_config(**fields | changes)


def save_tiny_model(name: str, folder: Path, seed: int = 0, **changes) -> Path:
    """A model folder of one of MODELS, float32; every gain and bias is random, so that none hides behind 1 or 0."""
    model = AutoModelForCausalLM.from_config(tiny_config(name, **changes), dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    mean_gain = 1.0 - family_of(model.config.model_type).norm_offset
    with torch.no_grad():
        for path, tensor in model.named_parameters():
            tensor.normal_(generator=generator)
            if "norm" in path:
                tensor.mul_(0.3).add_(mean_gain)
            elif path.endswith("bias"):
                tensor.mul_(0.3)
            elif "embed" not in path:
                tensor.mul_(tensor.shape[1] ** -0.5)
    model.save_pretrained(folder)
    return folder


def make_tokens(windows: int = 4, length: int = 12, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, VOCAB, (windows, length), dtype=np.int32)


def transformers_model(folder: Path, dtype: torch.dtype = torch.float32) -> nn.Module:
    """transformers' own model of a folder, with nothing of ours in it: the reference."""
    # torch's attention has no cap of its logits, for which transformers has code of its own.
    attention = "eager" if json.loads((folder / "config.json").read_text())["model_type"] == "gemma2" else "sdpa"
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation=attention).eval()


def transformers_losses(folder: Path, tokens: np.ndarray) -> list[float]:
    """The summed loss of each window as transformers' own forward pass gives it."""
    made = logits(transformers_model(folder), tokens)[:, :-1].double()
    targets = torch.from_numpy(tokens).long()[:, 1:]
    return nn.functional.cross_entropy(made.mT, targets, reduction="none").sum(1).tolist()


@torch.no_grad()
def logits(model: nn.Module, tokens: np.ndarray) -> torch.Tensor:
    model.config.return_dict = True  # without it transformers' own decoder gives its head a tuple
    return model(torch.from_numpy(tokens).long(), use_cache=False).logits


class DoubleNorm(nn.Module):
    """transformers' RMS norm without its detour through float32, which would hide an error of 1e-10."""

    def __init__(self, norm: nn.Module, offset: float) -> None:
        super().__init__()
        self.gain = norm.weight + offset
        self.eps = getattr(norm, "variance_epsilon", None) or norm.eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.gain


def double_model(folder: Path) -> tuple[Skeleton, nn.Module]:
    """(skeleton, its filled model) of a folder, in float64 throughout."""
    skeleton = Skeleton(folder, torch.float64)
    model = skeleton.fill()
    for name, module in list(model.named_modules()):
        if type(module).__name__.endswith("RMSNorm"):
            model.set_submodule(name, DoubleNorm(module, skeleton.family.norm_offset))
    return skeleton, model


def read_checkpoint(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint by their names."""
    return {name: tensor for path in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(path).items()}


def change_checkpoint(folder: Path, function) -> None:
    """Let `function` change the tensors of each file of a checkpoint, a dict by name."""
    for path in sorted(folder.glob("*.safetensors")):
        tensors = load_file(path)
        function(tensors)
        save_file(tensors, path, metadata={"format": "pt"})


def perplexity_losses(skeleton, tokens: np.ndarray) -> list[float]:
    """`window_losses` with a folder that is thrown away."""
    with TemporaryDirectory() as folder:
        return window_losses(skeleton, tokens, Scratch(folder, "test"))


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The norm of the difference over that of what was expected; NaN where anything is NaN."""
    return ((found - expected).norm() / expected.norm()).item()


def share_of_equal_tokens(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Rounding noise moves a few values over the border of a code: those tokens differ by a step, others by noise."""
    errors = (found - expected).norm(dim=-1) / expected.norm(dim=-1)
    return (errors < 1e-4).float().mean().item()


def recipe(**options) -> Recipe:
    """Every field given here: tests do not follow the defaults, which are tuned."""
    given = {
        "unit": "sublayer",
        "start": "balance",
        "structure": "kronecker",
        "longest_run": 128,
        "scaling": "balance",
        "smooth_alpha": 0.5,
        "other_sites": "affine",
        "initial_clip": 0.982,
        "clip_search": False,
        "search_windows": 2,
        "signed_scale": True,
        "steps": 0,
        "fitted": ["attention", "ffn"],
        "windows_per_step": 2,
        "learning_rate": 1e-3,
        "clip_rate_factor": 10.0,
        "betas": (0.9, 0.99),
        "weight_decay": 0.0,
    }
    return Recipe(**given | options)


def write_selection(kinds: list[str], path: Path, model: str = "tiny") -> Path:
    decisions = tuple(Decision(sublayer, kind, "for a test") for sublayer, kind in enumerate(kinds))
    Selection("test", model, len(kinds) // 2, decisions).write(path)
    return path


class Workspace:
    """A tiny model with recorded states; banks and checkpoints are made below its folder."""

    def __init__(
        self,
        name: str,
        folder: Path,
        *,
        loss: str = "relative",
        tokens: np.ndarray | None = None,
        full_products: bool = False,
    ) -> None:
        self.folder = folder
        self.model = save_tiny_model(name, folder / "model")
        self.tokens = make_tokens() if tokens is None else tokens
        self.loss = loss
        self.states = folder / "states"
        with pytest.MonkeyPatch.context() as patch:
            if full_products:  # none in reduced precision, also where the processor has them
                patch.setattr("altq.runtime.precision._has_fast_bfloat16", lambda: False)
            record_states(self.model, self.tokens, loss=loss, folder=self.states, fingerprint="test")

    def subject(self) -> Subject:
        """The model and its states, opened anew."""
        return Subject.open(self.model, self.states)

    def bank(self, setting, kind: str, *, folder: str = "bank", seed: int = 0, code: str = "code", **options) -> Path:
        path = self.folder / folder / str(setting) / kind
        fitting = Fitting(setting, kind=kind, seed=seed, recipe=recipe(**options))
        calibrate_bank(self.subject(), fitting, path, fingerprint=code)
        return path

    def rotated_bank(self, name: str, *, setting: Setting = W4A4K4V4, seed: int = 0, **options) -> Path:
        """A bank that stands in a rotated residual stream."""
        folder = self.folder / "rotated" / str(setting) / name
        if not (folder / "index.json").exists():
            options = {"steps": 0, "trained": [], "asymmetric": True} | options
            fitting = Fitting.end_to_end(setting=setting, seed=seed, recipe=EndToEndRecipe(**options))
            calibrate_end_to_end(self.model, self.states, fitting, folder, fingerprint="code")
        return folder

    def checkpoint(self, setting, kinds: list[str], rounding, *, folder: str = "checkpoint", **options) -> Path:
        banks = {kind: self.bank(setting, kind, **options) for kind in sorted(set(kinds) - {"identity"})}
        selection = write_selection(kinds, self.folder / "selection.json")
        path = self.folder / folder
        scheme = Scheme(Selection.read(selection), setting=setting, rounding=rounding, banks=banks)
        assemble(self.model, self.states, scheme, path, fingerprint="test")
        return path

    def quantized(self, *arguments, **options) -> SimpleNamespace:
        """(folder, model) of a checkpoint."""
        folder = self.checkpoint(*arguments, **options)
        return SimpleNamespace(folder=folder, model=load_model(folder))
