"""What transformers does behind the head is done wherever logits are made."""

import pytest
import torch
from models_for_tests import (
    logits,
    make_tokens,
    perplexity_losses,
    relative_error,
    save_tiny_model,
    transformers_losses,
    transformers_model,
)  # fmt: skip
from torch import nn

from altq.evaluation.likelihood import Request, plan_batches, score_batch
from altq.models.logits import make_logits
from altq.models.skeleton import Skeleton

TOKENS = make_tokens(windows=3, length=5)


@pytest.fixture
def capped(tmp_path):
    """A folder whose logits are capped so low that they hardly resemble what the head gives."""
    return save_tiny_model("gemma3_text", tmp_path, final_logit_softcapping=0.5)


def test_perplexity_is_that_of_capped_logits(capped):
    expected = transformers_losses(capped, TOKENS)
    assert perplexity_losses(Skeleton(capped), TOKENS) == pytest.approx(expected, rel=1e-5)


def test_zero_shot_is_that_of_capped_logits(capped):
    expected = logits(transformers_model(capped), TOKENS).log_softmax(-1)
    (batch,) = plan_batches([Request(0, TOKENS[0, :3].tolist(), TOKENS[0, 3:5].tolist())], 24)
    scored = score_batch(Skeleton(capped).fill(), batch)[0]
    exact = sum(expected[0, place - 1, TOKENS[0, place]].item() for place in (3, 4))
    assert scored.log_likelihood == pytest.approx(exact, rel=1e-5)


def test_text_is_drawn_from_capped_logits(capped):
    model, reference = Skeleton(capped).fill(), transformers_model(capped)
    drawn = []
    for of in (model, reference):
        torch.manual_seed(0)
        options = {"do_sample": True, "top_k": 0, "eos_token_id": None, "pad_token_id": 0}
        drawn.append(of.generate(torch.tensor([[3, 5]]), max_new_tokens=12, **options).tolist())
    assert drawn[0] == drawn[1] and len(drawn[0][0]) == 14


class _Doubled(nn.Linear):
    """A head that tells whether it was asked."""

    def forward(self, x):
        return 2 * super().forward(x)


def test_a_head_that_was_exchanged_is_the_one_that_runs(capped):
    model = Skeleton(capped).fill()
    hidden = torch.randn(4, 24)
    head = model.get_output_embeddings()
    doubled = _Doubled(24, head.out_features, bias=False)
    doubled.weight = head.weight
    model.set_output_embeddings(doubled)
    assert relative_error(make_logits(model, hidden), 0.5 * torch.tanh(2 * hidden @ head.weight.T / 0.5)) < 1e-6


def test_the_decoder_is_back_also_after_an_error(capped):
    model = Skeleton(capped).fill()
    decoder = model.get_decoder()
    with pytest.raises(RuntimeError):
        make_logits(model, torch.randn(4, 23))
    assert model.get_decoder() is decoder
