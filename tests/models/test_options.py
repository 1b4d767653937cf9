"""Every option of every family's configuration class: what it does in transformers' forward pass, it does here.

The options are those of the class. One that is new in transformers fails here until it has a case.
"""

import dataclasses

import pytest
import torch
from models_for_tests import (
    VOCAB,
    logits,
    make_tokens,
    perplexity_losses,
    relative_error,
    save_tiny_model,
    tiny_config,
    transformers_losses,
    transformers_model,
)  # fmt: skip

from altq.evaluation.generation import Sampling, generate_text
from altq.evaluation.likelihood import Request, plan_batches, score_batch
from altq.models.family import FAMILIES as KNOWN
from altq.models.skeleton import Skeleton

FAMILIES = {
    "llama": "llama_gqa", "mistral": "mistral", "qwen2": "qwen2", "qwen3": "qwen3", "gemma3_text": "gemma3_text",
    "smollm3": "smollm3", "granite": "granite", "phi3": "phi3", "olmo2": "olmo2", "gemma2": "gemma2",
}  # fmt: skip
TOKENS = make_tokens(windows=2, length=24)


QWEN_WINDOW = {"sliding_window": 5, "use_sliding_window": True, "max_window_layers": 1}
QWEN_WINDOW_CHANGES = {"sliding_window": 9, "use_sliding_window": False, "max_window_layers": 0}


def rope(kind, **parameters):
    return {"rope_type": kind, "rope_theta": 10_000.0, **parameters}


def rotary_frequencies(config):
    return getattr(config, "head_dim", config.hidden_size // config.num_attention_heads) // 2


def rope_cases(config):
    factors = [1.0 + 0.3 * index for index in range(rotary_frequencies(config))]
    longer = [2 * factor for factor in factors]
    original = {"original_max_position_embeddings": 16}
    return [
        rope("default", rope_theta=50.0),
        rope("linear", factor=3.0),
        rope("yarn", factor=4.0, **original),
        rope("yarn", factor=4.0, **original, attention_factor=1.3, beta_fast=20.0, beta_slow=2.0, truncate=False),
        rope("longrope", short_factor=factors, long_factor=longer, factor=2.0, **original),
        rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, **original),
    ]


def phi3_cases(option, config):
    """Of rotary embedding it has two types, over a part of each head, and a length for one of them beside it."""
    factors = [1.0 + 0.3 * index for index in range(rotary_frequencies(config))]
    sets = {"short_factor": factors, "long_factor": [2 * factor for factor in factors]}
    if option == "rope_parameters":
        length = {"original_max_position_embeddings": 16}
        half = {"partial_rotary_factor": 0.5, "short_factor": factors[:1], "long_factor": [3.0]}
        return [
            ({}, {option: rope("default", rope_theta=50.0)}),
            ({}, {option: rope("default", partial_rotary_factor=1.0)}),
            ({}, {option: rope("longrope", **sets), **length}),
            ({}, {option: rope("longrope", **half), **length, "max_position_embeddings": 64}),
        ]
    if option == "original_max_position_embeddings":
        longrope = rope("longrope", **sets)
        return [({option: 100, "rope_parameters": longrope}, {option: 8, "rope_parameters": longrope})]
    if option == "max_position_embeddings":  # over the length beside it: the factor of attention
        longrope = {"rope_parameters": rope("longrope", **sets), "original_max_position_embeddings": 16}
        return [({**longrope, option: 64}, {**longrope, option: 256})]
    return None


def cases(model_type, option, config):
    """Changes of the tiny configuration, with and without the option's effect; None where there is no case."""
    if model_type == "phi3" and (pairs := phi3_cases(option, config)):
        return pairs
    nested = model_type == "gemma3_text"  # parameters of rotary embedding for each type of layer
    if option == "rope_parameters" and nested:
        plain = rope("default", rope_theta=500.0)
        return [({}, {option: {"full_attention": case, "sliding_attention": plain}}) for case in rope_cases(config)]
    if option == "rope_parameters":
        return [({}, {option: case}) for case in rope_cases(config)]
    if option == "max_position_embeddings":
        dynamic = rope("dynamic", factor=2.0)
        dynamic = {"full_attention": dynamic, "sliding_attention": dynamic} if nested else dynamic
        return [({option: 100, "rope_parameters": dynamic}, {option: 8, "rope_parameters": dynamic})]
    if model_type.startswith("qwen") and option in QWEN_WINDOW:
        return [(QWEN_WINDOW, QWEN_WINDOW | {option: QWEN_WINDOW_CHANGES[option]})]
    if option == "layer_types":
        window = QWEN_WINDOW if model_type.startswith("qwen") else {"sliding_window": 5}
        first = "full_attention" if model_type.startswith("gemma") else "sliding_attention"
        second = "full_attention" if model_type == "smollm3" else "sliding_attention"
        return [(window, window | {option: [first, second]})]
    if option == "no_rope_layer_interval":
        return [({"no_rope_layers": None}, {"no_rope_layers": None, option: 1})]
    if option == "num_hidden_layers" and model_type.startswith("gemma"):
        return [({}, {option: 1, "layer_types": ["full_attention"]})]
    if option == "attn_logit_softcapping":
        return [({}, {option: 0.5}), ({}, {option: None})]
    changes = {
        "vocab_size": 2 * VOCAB,
        "hidden_size": 2 * config.hidden_size,
        "intermediate_size": 2 * config.intermediate_size,
        "num_hidden_layers": 1,
        "num_attention_heads": config.num_key_value_heads,
        "num_key_value_heads": config.num_attention_heads,
        "head_dim": 12,
        "hidden_act": "gelu",
        "hidden_activation": "silu",
        "rms_norm_eps": 0.5,
        "tie_word_embeddings": not config.tie_word_embeddings,
        "attention_bias": not getattr(config, "attention_bias", False),
        "mlp_bias": not getattr(config, "mlp_bias", False),
        "sliding_window": 7,
        "query_pre_attn_scalar": 3,
        "final_logit_softcapping": 1.5,
        "use_bidirectional_attention": True,
        "use_sliding_window": False,
        "no_rope_layers": [0, 1],
        "embedding_multiplier": 0.5,
        "attention_multiplier": 2,
        "residual_multiplier": 1.5,
        "logits_scaling": 0.2,
    }
    return [({}, {option: changes[option]})] if option in changes else None


WITHOUT_EFFECT = {
    "transformers_version": "4.0.0",
    "architectures": ["SomethingElse"],
    "output_hidden_states": True,
    "return_dict": False,
    "dtype": "float16",
    "chunk_size_feed_forward": 2,
    "is_encoder_decoder": True,
    "id2label": {0: "a", 1: "b", 2: "c"},
    "label2id": {"a": 0},
    "problem_type": "regression",
    "initializer_range": 0.5,
    "use_cache": False,
    "pad_token_id": 3,
    "bos_token_id": 5,
    "eos_token_id": [7, 8],
    "pretraining_tp": 2,
    "attention_dropout": 0.5,
    "resid_pdrop": 0.5,
    "embd_pdrop": 0.5,
}
"""On the logits of a model that is not being trained, as transformers computes them; asserted below."""

IGNORED = {("gemma3_text", "attn_logit_softcapping"): 2.0, ("gemma2", "use_bidirectional_attention"): True}
"""What a class has and no forward pass heeds: refused."""

OPTIONS = [
    (model_type, field.name)
    for model_type, name in FAMILIES.items()
    for field in dataclasses.fields(type(tiny_config(name)))
]


def assert_equals_transformers(folder):
    skeleton = Skeleton(folder)
    assert perplexity_losses(skeleton, TOKENS) == pytest.approx(transformers_losses(folder, TOKENS), rel=1e-4)
    expected = logits(transformers_model(folder), TOKENS)
    model = skeleton.fill()
    assert not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
    assert relative_error(logits(model, TOKENS), expected) < 1e-4
    if getattr(skeleton.config, "use_bidirectional_attention", False):
        return  # refused below
    requests = [Request(item, row[:3].tolist(), row[3:5].tolist()) for item, row in enumerate(TOKENS)]
    scored = {}
    for batch in plan_batches(requests, 24):
        scored |= score_batch(model, batch)
    # What a request gives alone: rotary embedding may depend on the length.
    alone = logits(transformers_model(folder), TOKENS[:, :4]).log_softmax(-1)
    for item, row in enumerate(alone):
        exact = sum(row[place - 1, TOKENS[item, place]].item() for place in (3, 4))
        assert scored[item].log_likelihood == pytest.approx(exact, rel=1e-4)


def test_every_family_has_its_options_tested():
    assert FAMILIES.keys() == KNOWN.keys()


@pytest.mark.parametrize(("model_type", "option"), OPTIONS)
def test_an_option_does_what_it_does_in_transformers(model_type, option, tmp_path):
    name = FAMILIES[model_type]
    if (model_type, option) in IGNORED:
        folder = save_tiny_model(name, tmp_path, **{option: IGNORED[model_type, option]})
        plain = save_tiny_model(name, tmp_path / "plain")
        assert torch.equal(logits(transformers_model(folder), TOKENS), logits(transformers_model(plain), TOKENS))
        with pytest.raises(ValueError, match=f"config.json has {option}, which no {model_type} model"):
            Skeleton(folder)
        return
    pairs = cases(model_type, option, tiny_config(name))
    if pairs is None and option in WITHOUT_EFFECT:
        pairs = [({}, {option: WITHOUT_EFFECT[option]})]
    assert pairs, f"{option} is new in transformers' configuration of {model_type}: say here what it does"
    for number, (before, after) in enumerate(pairs):
        plain = save_tiny_model(name, tmp_path / f"plain{number}", **before)
        changed = save_tiny_model(name, tmp_path / f"changed{number}", **after)
        one, other = (logits(transformers_model(folder), TOKENS) for folder in (plain, changed))
        has_effect = one.shape != other.shape or relative_error(other, one) > 1e-4
        assert has_effect == (option not in WITHOUT_EFFECT), (before, after)
        assert_equals_transformers(changed)


def test_what_sees_later_tokens_is_not_scored_beside_others(tmp_path):
    model = Skeleton(save_tiny_model("gemma3_text", tmp_path, use_bidirectional_attention=True)).fill()
    (batch,) = plan_batches([Request(0, [1, 2], [3])], 24)
    with pytest.raises(ValueError, match="use_bidirectional_attention"):
        score_batch(model, batch)
    with pytest.raises(ValueError, match="use_bidirectional_attention"):
        generate_text(model, None, [1, 2], 3, Sampling())


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_a_request_at_which_frequencies_change_with_the_length_is_refused(kind, tmp_path):
    factors = {"short_factor": [1.0] * 3, "long_factor": [2.0] * 3, "original_max_position_embeddings": 8}
    parameters = rope(kind, factor=2.0, **(factors if kind == "longrope" else {}))
    model = Skeleton(
        save_tiny_model("llama_gqa", tmp_path, rope_parameters=parameters, max_position_embeddings=8)
    ).fill()
    (fits,) = plan_batches([Request(0, [1, 2, 3], [4, 5, 6, 7, 8, 9])], 24)
    score_batch(model, fits)
    (longer,) = plan_batches([Request(0, [1, 2, 3, 4], [4, 5, 6, 7, 8, 9])], 24)
    with pytest.raises(ValueError, match=f"rotary embedding of type {kind} .* 8 tokens"):
        score_batch(model, longer)
