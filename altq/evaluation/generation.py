"""Text from a model, token by token: greedy, or drawn from its distribution by a generator that is handed in."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from altq.checkpoint.decoding_cache import decoding_cache
from altq.evaluation.likelihood import require_causal
from altq.models.logits import make_logits


@dataclass(frozen=True)
class Sampling:
    """Draw from the distribution at a temperature, among its `top_k` likeliest tokens; a temperature of 0 is greedy."""

    temperature: float = 0.0
    top_k: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf") or self.top_k < 0:
            raise ValueError(f"temperature {self.temperature} and top-k {self.top_k} must not be negative or infinite")

    def choose(self, logits: Tensor, generator: torch.Generator) -> int:
        """A token from logits [vocabulary]; ValueError where they are not finite."""
        if not logits.isfinite().all():
            raise ValueError("the model's logits are not finite; its activations overflow")
        if not self.temperature:
            return int(logits.argmax())
        logits, tokens = logits.topk(min(self.top_k or len(logits), len(logits)))
        shares = (logits.double() / self.temperature).softmax(-1)
        return int(tokens[torch.multinomial(shares, 1, generator=generator)])


@dataclass
class Speed:
    """Seconds on the clock and tokens of the two phases; the first new token comes from the prompt's pass."""

    prompt_tokens: int = 0
    prompt_seconds: float = 0.0
    decoded_tokens: int = 0
    decode_seconds: float = 0.0


@torch.inference_mode()
def generate(
    model: nn.Module,
    prompt: list[int],
    max_new_tokens: int,
    *,
    sampling: Sampling,
    generator: torch.Generator,
    end_tokens: frozenset[int] = frozenset(),
    speed: Speed | None = None,
) -> Iterator[int]:
    """New tokens after `prompt`, up to an end token (which is not given) or `max_new_tokens` of them.

    `speed` is filled in as tokens come. ValueError for an empty prompt.
    """
    if not prompt:
        raise ValueError("the prompt has no tokens")
    require_causal(model)
    speed = Speed() if speed is None else speed
    decoder = model.get_decoder()
    tokens = torch.tensor([prompt])
    with decoding_cache(model) as cache:
        for position in range(max_new_tokens):
            start = time.perf_counter()
            hidden = decoder(tokens, past_key_values=cache, use_cache=True).last_hidden_state[0, -1:]
            token = sampling.choose(make_logits(model, hidden)[0], generator)
            seconds = time.perf_counter() - start
            if position == 0:
                speed.prompt_tokens, speed.prompt_seconds = len(prompt), seconds
            else:
                speed.decoded_tokens += 1
                speed.decode_seconds += seconds
            if token in end_tokens:
                return
            yield token
            tokens = torch.tensor([[token]])
