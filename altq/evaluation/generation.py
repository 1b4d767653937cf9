"""Text from a model by transformers' own `generate`, with what it took."""

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    GenerationMixin,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TextStreamer,
)
from transformers.generation.streamers import BaseStreamer

from altq.checkpoint.format import is_checkpoint
from altq.checkpoint.packed_model import beyond_packing, load_packed_model
from altq.checkpoint.quantized_model import load_model
from altq.evaluation.likelihood import require_causal
from altq.runtime.device import CPU

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen; what is None is as the model's generation_config.json says.

    temperature: draw from p^(1/T), or take the likeliest token at 0. top_k, top_p: draw among the k likeliest tokens,
    among the fewest that have p of the probability together.
    """

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        if self.temperature is not None and not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature {self.temperature} must not be negative or infinite")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top-k {self.top_k} leaves no token; give 1 or more")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top-p {self.top_p} is no probability above 0")
        if self.temperature == 0 and (self.top_k, self.top_p) != (None, None):
            raise ValueError("at temperature 0 the likeliest token is taken; leave top-k and top-p out")

    def options(self, own: GenerationConfig) -> dict[str, Any]:
        """Options of `generate` that replace those of the model's own configuration."""
        if self.temperature == 0:
            return {"do_sample": False, "temperature": 1.0, "top_k": 50, "top_p": 1.0}  # the last three unheeded
        given = {"temperature": self.temperature, "top_k": self.top_k, "top_p": self.top_p}
        if not any(value is not None for value in given.values()):
            return {}
        # Where nobody limits them all tokens are drawn among; transformers takes 50 then.
        given["top_k"] = self.top_k or own.top_k or 0
        return {"do_sample": True} | {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True)
class Speed:
    """Seconds on the clock and tokens of the two phases; the first new token comes from the prompt's pass."""

    prompt_tokens: int
    prompt_seconds: float
    decoded_tokens: int
    decode_seconds: float


class _Clock(BaseStreamer):
    """Notes when tokens come."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: Tensor) -> None:
        self.times.append(time.perf_counter())

    def end(self) -> None:
        """Nothing is left to do."""

    def speed(self, prompt_tokens: int) -> Speed:
        begin, first, *others = self.times
        return Speed(prompt_tokens, first - begin, len(others), others[-1] - first if others else 0.0)


class _TimedStreamer(_Clock, TextStreamer):
    """Prints text as it comes, and notes when."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        _Clock.__init__(self)
        TextStreamer.__init__(self, tokenizer, skip_special_tokens=True)

    def put(self, value: Tensor) -> None:
        _Clock.put(self, value)
        TextStreamer.put(self, value)

    def end(self) -> None:
        TextStreamer.end(self)


class RefuseNotFinite(LogitsProcessor):
    """ValueError where the model's logits are not finite: the likeliest of NaN is a token like any other."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        # Minus infinity is how an option of `generate` forbids a token.
        if scores.isnan().any() or scores.isposinf().any() or not scores.isfinite().any(-1).all():
            raise ValueError("the model's logits are not finite; its activations overflow")
        return scores


def load_generator(folder: str | Path, device: torch.device = CPU) -> PreTrainedModel:
    """A checkpoint on the device's packed kernels or a model in full precision, with its generation_config.json if any.

    A checkpoint that the CPU kernels do not know is computed by torch, with codes held as floats; the log says why.
    """
    if not is_checkpoint(folder):
        return load_model(folder, device)
    if device.type == "cpu" and (problem := beyond_packing(folder)):
        log.warning("%s: in plain torch, with codes held as floats; the CPU kernels do not know %s", folder, problem)
        return load_model(folder, device)
    return load_packed_model(folder, device=device)


def generate_text(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: list[int],
    max_new_tokens: int,
    sampling: Sampling,
) -> Speed:
    """Print a prompt and what a model makes of it, as it comes; drawn by torch's own generator. ValueError for no prompt."""
    if not prompt:
        raise ValueError("the prompt has no tokens")
    require_causal(model)
    assert isinstance(model, GenerationMixin), "transformers' models for causal language modelling generate"
    own, streamer = model.generation_config, _TimedStreamer(tokenizer)
    tokens = torch.tensor([prompt], device=model.device)
    if own.pad_token_id is None:
        own.pad_token_id = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    _generate(model, tokens, streamer, max_new_tokens=max_new_tokens, **sampling.options(own))
    return streamer.speed(len(prompt))


def decoding_speed(model: PreTrainedModel, prompt: list[int], num_tokens: int) -> Speed:
    """Time a model that makes so many tokens after a prompt, the likeliest each time, whatever would end its text."""
    require_causal(model)
    clock, options = _Clock(), Sampling(temperature=0).options(model.generation_config)
    lengths = {"min_new_tokens": num_tokens, "max_new_tokens": num_tokens}
    _generate(model, torch.tensor([prompt], device=model.device), clock, **lengths, **options, pad_token_id=prompt[0])
    return clock.speed(len(prompt))


@torch.inference_mode()
def _generate(model: PreTrainedModel, tokens: Tensor, streamer: BaseStreamer, **options: Any) -> None:
    processors = LogitsProcessorList([RefuseNotFinite()])
    model.generate(  # type: ignore[operator]  # its own models declare less than the protocol of `self` asks for
        tokens, attention_mask=torch.ones_like(tokens), streamer=streamer, logits_processor=processors, **options
    )
