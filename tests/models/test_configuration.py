"""Of a config.json every key is heeded, known to mean nothing, or refused by its name."""

import json

import pytest
import torch
from models_for_tests import logits, make_tokens, save_tiny_model, transformers_model

from altq.models.configuration import load_config
from altq.models.model_folder import ModelFolder
from altq.models.skeleton import Skeleton


def changed(folder, **keys):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))
    return ModelFolder.at(folder)


@pytest.fixture
def llama(tmp_path):
    return save_tiny_model("llama_gqa", tmp_path)


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("llama_gqa", "final_logit_softcapping", 30.0),
        ("llama_gqa", "logit_scale", 0.5),
        ("llama_gqa", "residual_multiplier", 0.2),
        ("llama_gqa", "sliding_window", 4),
        ("llama_gqa", "rope_interleaved", True),
        ("llama_gqa", "per_layer_config", {"1": {"num_key_value_heads": 1}}),
        ("qwen2", "attention_bias", True),
        ("mistral", "layer_types", ["full_attention", "sliding_attention"]),
        ("gemma3_text", "attn_logit_softcapping", 50.0),
    ],
)
def test_a_key_that_nothing_heeds_is_refused(name, key, value, tmp_path):
    folder = changed(save_tiny_model(name, tmp_path), **{key: value})
    with pytest.raises(ValueError, match=rf"config.json has {key}, which no {name.partition('_gqa')[0]} model"):
        Skeleton(folder.path)


def test_keys_that_say_no_and_keys_of_other_people_are_passed_over(llama):
    folder = changed(
        llama, rope_interleaved=False, pruned_heads={}, final_logit_softcapping=None, quantization_config=None,
        unsloth_version="2026.1", unk_token_id=3, auto_map={"AutoModelForCausalLM": "code.Model"}, _name_or_path="/home/me/x",
        num_labels=10**9, **{"transformers.js_config": {"dtype": "fp16"}},
    )  # fmt: skip
    config = load_config(folder)
    assert not hasattr(config, "auto_map") and not config._name_or_path


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("smollm3", {"max_window_layers": 28, "pretraining_tp": 2}),
        ("gemma2", {"hidden_act": "relu", "sliding_window_size": 4}),
    ],
)
def test_keys_of_published_models_that_nobody_reads_are_passed_over(name, keys, tmp_path):
    plain, folder = (save_tiny_model(name, tmp_path / part) for part in ("plain", "published"))
    changed(folder, **keys)
    assert torch.equal(*(logits(Skeleton(path).fill(), make_tokens(2, 9)) for path in (plain, folder)))
    assert torch.equal(*(logits(transformers_model(path), make_tokens(2, 9)) for path in (plain, folder)))


@pytest.mark.parametrize(
    ("rope", "message"),
    [
        ({"rope_type": "linear", "factor": 2.0, "alpha": 3.0}, "of type linear has alpha"),
        ({"rope_type": "default", "partial_rotary_factor": 0.5}, "of type default has partial_rotary_factor"),
        ({"rope_type": "spiral"}, "rope_type 'spiral' is not known"),
        ({"rope_type": "linear"}, "is refused by transformers"),
        ({"rope_type": ["linear"]}, "config.json"),
    ],
)
def test_rotary_embedding_is_heeded_whole(llama, rope, message):
    with pytest.raises(ValueError, match=message):
        load_config(changed(llama, rope_parameters=rope))
    legacy = {"type" if key == "rope_type" else key: value for key, value in rope.items()}
    with pytest.raises(ValueError, match=message):
        load_config(changed(llama, rope_parameters=None, rope_scaling=legacy))


def test_gemma_has_rotary_embedding_for_each_type_of_layer(tmp_path):
    folder = save_tiny_model("gemma3_text", tmp_path)
    with pytest.raises(ValueError, match="rope_parameters has factor, rope_type beside"):
        load_config(changed(folder, rope_parameters={"rope_type": "linear", "factor": 8.0}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": 0}, "hidden_size: Input should be greater than or equal to 1"),
        ({"hidden_size": -36}, "hidden_size: Input should be greater than or equal to 1"),
        ({"hidden_size": "36"}, "hidden_size: Input should be a valid integer"),
        ({"vocab_size": True}, "vocab_size: Input should be a valid integer"),
        ({"num_hidden_layers": 2.0}, "num_hidden_layers: Input should be a valid integer"),
        ({"num_hidden_layers": 2**31}, "num_hidden_layers: Input should be less than"),
        ({"num_key_value_heads": 4}, "num_key_value_heads 4 does not divide"),
        ({"head_dim": 2**31}, "head_dim: Input should be less than"),
        ({"rms_norm_eps": -1e-5}, "rms_norm_eps"),
        ({"rms_norm_eps": float("nan")}, "not JSON compliant"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings: Input should be a valid boolean"),
        ({"model_type": None}, "model_type: Input should be a valid string"),
        ({"hidden_act": 3}, "is refused by transformers .*hidden_act"),
        ({"hidden_act": "nope"}, "makes no model of transformers .*nope"),
        ({"dtype": "float31"}, "is refused by transformers .*float31"),
    ],
)
def test_a_wrong_value_is_one_message_with_its_place(llama, change, message):
    with pytest.raises(ValueError, match=rf"config.json.*{message}"):
        Skeleton(changed(llama, **change).path)


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "3", '"llama"', "{", "[" * 5000, '{"a": 1e999}', '{"model_type": "llama"}']
)
def test_what_is_no_configuration_is_one_message(llama, text):
    (llama / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config.json.*correct or replace it"):
        Skeleton(llama)


def test_bytes_that_are_no_text_are_one_message_and_a_byte_order_mark_is_none(llama):
    path = llama / "config.json"
    text = path.read_bytes()
    path.write_bytes(b"\xef\xbb\xbf" + text)
    Skeleton(llama)
    path.write_bytes(text.replace(b"llama", b"ll\xffma"))
    with pytest.raises(ValueError, match=r"config.json"):
        Skeleton(llama)
