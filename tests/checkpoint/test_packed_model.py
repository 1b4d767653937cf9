"""A checkpoint on the packed kernels is the checkpoint that multiplies codes as floats."""

import numpy as np
import pytest
import torch
from models_for_tests import Workspace, logits, make_tokens, perplexity_losses, relative_error

from altq.checkpoint.decoding_cache import decoding_cache
from altq.checkpoint.half_embedding import halve_embedding
from altq.checkpoint.packed_model import load_packed_model, open_packed_model, weight_memory
from altq.checkpoint.quantized_model import load_model, open_model
from altq.evaluation.generation import Sampling, Speed, generate
from altq.experiment.rounding import RoundingOptions
from altq.experiment.setting import Setting

KINDS = ["affine", "rotation", "balance", "identity"]


@pytest.fixture(scope="module", params=["llama_gqa", "qwen2", "mistral"])
def made(request, tmp_path_factory):
    """(folder of a checkpoint, tokens); qwen2 has biases."""
    workspace = Workspace(request.param, tmp_path_factory.mktemp(request.param))
    rounding = RoundingOptions(weights="rtn", windows=4)
    return workspace.checkpoint(Setting(4, 4, 4, 4), KINDS, rounding), workspace.tokens


def perplexity(losses, tokens):
    return np.exp(np.sum(losses) / (len(tokens) * (tokens.shape[1] - 1)))


@pytest.mark.parametrize("variant", [None, "torch"])
def test_its_perplexity_is_that_of_the_checkpoint(made, variant):
    folder, _ = made
    tokens = make_tokens(windows=6, length=20, seed=3)
    expected = perplexity(perplexity_losses(open_model(folder), tokens), tokens)
    packed = perplexity(perplexity_losses(open_packed_model(folder, variant), tokens), tokens)
    assert packed == pytest.approx(expected, rel=1e-3)


def test_its_logits_are_those_of_the_checkpoint(made):
    folder, tokens = made
    assert relative_error(logits(load_packed_model(folder), tokens), logits(load_model(folder), tokens)) < 1e-2


@pytest.mark.parametrize("setting", [Setting(3, 3, 3, 3), Setting(2, 8, 16, 16), Setting(8, 4, 2, 16)])
def test_other_widths(setting, tmp_path):
    workspace = Workspace("llama_gqa", tmp_path)
    folder = workspace.checkpoint(setting, ["affine"] * 4, RoundingOptions(weights="rtn", windows=4))
    tokens = make_tokens(windows=6, length=20, seed=3)
    expected = perplexity(perplexity_losses(open_model(folder), tokens), tokens)
    assert perplexity(perplexity_losses(open_packed_model(folder), tokens), tokens) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("setting", "message"), [(Setting(16, 4, 4, 4), "weights have 16 bits"), (Setting(5, 4, 4, 4), "not of 5")]
)
def test_widths_that_the_kernels_do_not_know(setting, message, tmp_path):
    workspace = Workspace("llama_gqa", tmp_path)
    folder = workspace.checkpoint(setting, ["identity"] * 4, RoundingOptions(weights="rtn", windows=4))
    with pytest.raises(ValueError, match=message):
        load_packed_model(folder)


def test_only_a_checkpoint_is_packed(tmp_path):
    workspace = Workspace("llama_gqa", tmp_path)
    with pytest.raises(ValueError, match="only a quantized checkpoint"):
        load_packed_model(workspace.model)
    memory = weight_memory(load_model(workspace.model))
    assert memory.projections == memory.projections_in_float32 > 0 and memory.rest > 0


def test_weights_take_a_fraction_of_the_memory(tmp_path):
    workspace = Workspace("llama_gqa", tmp_path)
    folder = workspace.checkpoint(Setting(4, 4, 4, 4), ["identity"] * 4, RoundingOptions(weights="rtn", windows=4))
    full, packed = weight_memory(load_model(workspace.model)), weight_memory(load_packed_model(folder, "torch"))
    assert packed.projections_in_float32 == full.projections and packed.rest == full.rest
    assert packed.projections < full.projections / 2


@pytest.mark.parametrize("load", [load_model, load_packed_model])
def test_a_token_at_a_time_is_the_whole_window(made, load):
    folder, tokens = made
    model, window = load(folder), torch.from_numpy(tokens[:1]).long()
    expected = logits(model, window.numpy())
    with torch.no_grad(), decoding_cache(model) as cache:
        pieces = [
            model(piece, past_key_values=cache).logits for piece in (window[:, :5], *window[:, 5:].split(1, dim=1))
        ]
    # A sum in another order can move a value over the edge between two codes.
    assert relative_error(torch.cat(pieces, dim=1), expected) < 0.05
    assert torch.equal(logits(model, window.numpy()), expected), "the joints are as they were"


def greedy(model, prompt, count, **options):
    generator = torch.Generator().manual_seed(options.pop("seed", 0))
    return list(generate(model, prompt, count, sampling=Sampling(**options), generator=generator))


def test_greedy_text_is_transformers_own(tmp_path):
    model = load_model(Workspace("llama_gqa", tmp_path).model)
    prompt, speed = [3, 7, 5], Speed()
    tokens = list(generate(model, prompt, 8, sampling=Sampling(), generator=torch.Generator(), speed=speed))
    expected = model.generate(
        torch.tensor([prompt]), max_new_tokens=8, min_new_tokens=8, do_sample=False, eos_token_id=None
    )
    assert tokens == expected[0, 3:].tolist()
    assert (speed.prompt_tokens, speed.decoded_tokens) == (3, 7) and speed.decode_seconds > 0


def test_text_is_drawn_by_the_seed(made):
    model = load_packed_model(made[0])
    drawn = [greedy(model, [1, 2], 20, temperature=2.0, seed=seed) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2] and len(drawn[0]) == 20
    assert greedy(model, [1, 2], 9, temperature=2.0, top_k=1) == greedy(model, [1, 2], 9)


def test_text_ends_at_an_end_token(made):
    model = load_packed_model(made[0])
    tokens = greedy(model, [1, 2], 9)
    end = frozenset({tokens[4]})
    stopped = list(generate(model, [1, 2], 9, sampling=Sampling(), generator=torch.Generator(), end_tokens=end))
    assert stopped == tokens[: tokens.index(tokens[4])]


def test_bad_requests_are_refused(made):
    with pytest.raises(ValueError, match="the prompt has no tokens"):
        greedy(load_packed_model(made[0]), [], 3)
    with pytest.raises(ValueError, match="must not be negative"):
        Sampling(temperature=-1.0)
    with pytest.raises(ValueError, match="not finite"):
        Sampling().choose(torch.tensor([0.0, float("nan")]), torch.Generator())


def test_embedding_and_head_in_bfloat16(made):
    folder, tokens = made
    model = load_packed_model(folder)
    expected, before = logits(model, tokens), weight_memory(model)
    is_tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    halve_embedding(model)
    outputs, after = logits(model, tokens), weight_memory(model)
    assert outputs.dtype == torch.float32 and 0 < relative_error(outputs, expected) < 0.5
    vocabulary, hidden = model.get_input_embeddings().weight.shape
    assert before.rest - after.rest == 2 * vocabulary * hidden * (1 if is_tied else 2)
    assert after.projections == before.projections
