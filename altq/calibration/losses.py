"""Losses of end-to-end calibration, on the logits of some tokens."""

from torch import Tensor
from torch.nn import functional as F


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Negative log-likelihood of the next tokens, summed: logits [tokens, vocabulary], targets [tokens]."""
    return F.cross_entropy(logits, targets, reduction="sum")


def kl_top(logits: Tensor, full: Tensor, k: int) -> Tensor:
    """sum p log(p / q) over the k tokens that the full-precision model finds likeliest, summed over all positions.

    p and q are the probabilities, over the whole vocabulary, that the full-precision and the quantized model give these
    k tokens: logits and full [tokens, vocabulary] (OSTQuant, arXiv 2501.13987, as its authors run it).
    """
    best, indices = full.log_softmax(-1).topk(min(k, full.shape[-1]), dim=-1, sorted=False)
    return F.kl_div(logits.log_softmax(-1).gather(-1, indices), best, reduction="sum", log_target=True)
