"""Logits by transformers' own model: its head, and all that its forward pass does behind it."""

from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast


class _DecoderOutput(nn.Module):
    """Stand-in for the decoder that returns hidden states which the decoder has already computed."""

    def forward(self, inputs_embeds: Tensor, **_: Any) -> BaseModelOutputWithPast:
        return BaseModelOutputWithPast(last_hidden_state=inputs_embeds)


def make_logits(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    """Logits from the last norm's output, [tokens, hidden] -> [tokens, vocabulary].

    transformers' own forward pass runs with nothing in it but what follows the decoder, so that whatever a family does
    there (a head, a soft cap, a scale) is done here, too.
    """
    name = model.base_model_prefix
    decoder = getattr(model, name)
    setattr(model, name, _DecoderOutput())
    try:
        return model(inputs_embeds=hidden.unsqueeze(0), use_cache=False).logits.squeeze(0)
    finally:
        setattr(model, name, decoder)
