"""All that a GGUF file says is in the model that is made of it, or it is refused by name."""

import time

import numpy as np
import pytest
import torch
from gguf_for_tests import ARCHITECTURES, WORDS, write_gguf
from models_for_tests import logits, relative_error, transformers_losses, transformers_model

from altq.experiment.sources import ModelDescription
from altq.models.skeleton import Skeleton
from altq.sources.model import fetch_model

TOKENS = np.random.default_rng(0).integers(0, len(WORDS), (2, 20), dtype=np.int32)


def fetched(path, num_blocks=2):
    fetch_model(ModelDescription(num_blocks=num_blocks, path=str(path)), path.parent / "fetched")
    return path.parent / "fetched"


def assert_same(path, folder, bound=1e-5):
    made = fetched(path)
    assert relative_error(logits(Skeleton(made).fill(), TOKENS), logits(transformers_model(folder), TOKENS)) < bound
    assert transformers_losses(made, TOKENS) == pytest.approx(transformers_losses(folder, TOKENS), rel=bound)


# transformers gives Gemma 3 its own default for what scales its attention; here it is that of its heads.
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_model_of_every_family_is_the_same_after_conversion(name, tmp_path):
    changes = {"layer_types": ["sliding_attention"] * 2} if name == "gemma3_text" else {}
    assert_same(tmp_path / "m.gguf", write_gguf(tmp_path / "m.gguf", name, **changes))


def test_the_frequencies_of_llama_3_are_carried_over(tmp_path):
    rope = {
        "rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    }  # fmt: skip
    plain = write_gguf(tmp_path / "plain.gguf", "llama_gqa")
    scaled = (
        transformers_model(write_gguf(tmp_path / "scaled.gguf", "llama_gqa", rope_parameters=rope))
        .get_decoder()
        .rotary_emb.inv_freq
    )
    factors = transformers_model(plain).get_decoder().rotary_emb.inv_freq / scaled
    assert (factors > 1.5).any()
    folder = write_gguf(
        tmp_path / "m.gguf", "llama_gqa", rope_parameters=rope, extra={"rope_freqs.weight": factors.float()}
    )
    assert_same(tmp_path / "m.gguf", folder)
    # Without them it is another model.
    assert relative_error(logits(transformers_model(plain), TOKENS), logits(transformers_model(folder), TOKENS)) > 1e-3


@pytest.mark.parametrize(
    ("rope", "keys"),
    [
        ({"rope_type": "linear", "factor": 4.0}, {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}),
        ({"rope_type": "linear", "factor": 4.0}, {"rope.scaling.factor": 4.0}),
        (
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
            {
                "rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 16,
                "rope.scaling.finetuned": True,
            },
        ),
    ],
)  # fmt: skip
def test_scaled_rotary_embedding_is_carried_over(rope, keys, tmp_path):
    changes = {"rope_parameters": {"rope_theta": 1e4, **rope}}
    assert_same(tmp_path / "m.gguf", write_gguf(tmp_path / "m.gguf", "llama_gqa", keys=keys, **changes))


def test_gemma_scales_its_layers_of_full_attention_and_caps_its_logits(tmp_path):
    rope = {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
    }
    keys = {
        "rope.scaling.type": "linear", "rope.scaling.factor": 8.0, "rope.freq_base_swa": 500.0,
        "final_logit_softcapping": 2.0,
    }  # fmt: skip
    changes = {"rope_parameters": rope, "final_logit_softcapping": 2.0, "num_hidden_layers": 6, "layer_types": None}
    folder = write_gguf(tmp_path / "m.gguf", "gemma3_text", keys=keys, **changes)
    made = fetched(tmp_path / "m.gguf", num_blocks=6)
    assert relative_error(logits(Skeleton(made).fill(), TOKENS), logits(transformers_model(folder), TOKENS)) < 1e-5


def test_a_bias_that_the_file_lacks_is_zero(tmp_path):
    lacking = [f"blk.{block}.attn_output.bias" for block in range(2)]
    folder = write_gguf(tmp_path / "m.gguf", "llama_biases", lacking=lacking)
    reference = transformers_model(folder)
    for layer in reference.get_decoder().layers:
        layer.self_attn.o_proj.bias.data.zero_()
    made = fetched(tmp_path / "m.gguf")
    assert relative_error(logits(Skeleton(made).fill(), TOKENS), logits(reference, TOKENS)) < 1e-5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lacking": ["blk.1.ffn_up.weight"]}, "lacks 1 tensors of the model, among them model.layers.1.mlp.up_proj"),
        ({"lacking": ["output_norm.weight"]}, "lacks 1 tensors of the model, among them model.norm.weight"),
        ({"extra": {"blk.0.attn_rot.weight": torch.ones(3)}}, "no place for its tensor blk.0.attn_rot.weight"),
        ({"extra": {"blk.0.attn_q_norm.weight": torch.ones(6)}}, "no place for its tensor blk.0.attn_q_norm.weight"),
        ({"extra": {"output.bias": torch.ones(len(WORDS))}}, "output.bias"),
        ({"extra": {"output_norm.weight": torch.ones(12)}}, "its tensor output_norm.weight has shape"),
        ({"extra": {"rope_freqs.weight": torch.zeros(3)}}, "rope_freqs.weight are not all positive"),
        ({"extra": {"rope_freqs.weight": torch.ones(5)}}, "cannot be converted"),
        (
            {"extra": {"output_norm.weight": torch.full((36,), torch.nan)}},
            "1 of its tensors hold NaN .* model.norm.weight",
        ),
        ({"keys": {"logit_scale": 0.25}}, r"does not heed: llama.logit_scale \(0.25\)"),
        ({"keys": {"expert_count": 8}}, r"llama.expert_count \(8\)"),
        ({"keys": {"attention.sliding_window": 4}}, "llama.attention.sliding_window"),
        ({"keys": {"rope.scaling.attn_factor": 2.0}}, "llama.rope.scaling.attn_factor"),
        ({"keys": {"rope.scaling.type": "su"}}, "rope.scaling.type su is not known"),
        ({"keys": {"rope.dimension_count": 4}}, "rope.dimension_count is 4, but a head of its keys has 6"),
        ({"keys": {"attention.value_length": 4}}, "attention.value_length is 4, but a head"),
        ({"keys": {"tokenizer.ggml.pre": "mine"}}, r"tokenizer.ggml.pre \(mine\)"),
        ({"keys": {"general.type": "adapter"}}, r"general.type \(adapter\)"),
        ({"keys": {"split.count": 3}}, "split.count"),
        ({"keys": {"attention.layer_norm_rms_epsilon": 0.5}}, "epsilon of 0.5"),
        ({"keys": {"attention.head_count": None}}, "cannot be converted"),
        ({"keys": {"attention.head_count": 0}}, "cannot be converted"),
        ({"keys": {"embedding_length": 2**31 - 1}}, "cannot be converted"),
    ],
)
def test_what_is_not_heeded_is_refused_by_name(change, message, tmp_path):
    write_gguf(tmp_path / "m.gguf", "llama_gqa", **change)
    with pytest.raises(ValueError, match=rf"m.gguf cannot be converted.*{message}|m.gguf {message}") as refused:
        fetched(tmp_path / "m.gguf")
    assert ".partial" not in str(refused.value)


@pytest.mark.parametrize("name", ["gpt-2", "default", "smollm", "llama-bpe"])
def test_text_that_is_split_as_gpt2s_in_place_of_its_own_is_told(tmp_path, caplog, name):
    write_gguf(tmp_path / "m.gguf", "llama_gqa", keys={"tokenizer.ggml.pre": name})
    fetched(tmp_path / "m.gguf")
    told = [line for line in caplog.messages if "way to split text" in line]
    assert len(told) == (name in ("default", "smollm"))
    assert all("m.gguf" in line and f" is {name}," in line and ".partial" not in line for line in told)


def test_keys_without_a_value_are_passed_over(tmp_path):
    keys = {"expert_count": 0, "general.name": "mine", "tokenizer.ggml.eot_token_id": 3, "logit_scale": 0.0}
    write_gguf(tmp_path / "m.gguf", "llama_gqa", keys=keys)
    fetched(tmp_path / "m.gguf")


def test_a_number_of_blocks_is_not_believed(tmp_path):
    write_gguf(tmp_path / "m.gguf", "llama_gqa", keys={"block_count": 2**31 - 1})
    start = time.monotonic()
    with pytest.raises(ValueError, match=r"it has 2147483647 blocks .* says num_blocks: 2"):
        fetched(tmp_path / "m.gguf")
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("length", [2**60, 2**63 - 1, 2**40, 10**9])
@pytest.mark.parametrize("key", [b"tokenizer.ggml.token_type", b"tokenizer.ggml.tokens", b"tokenizer.ggml.merges"])
def test_the_length_of_an_array_is_not_believed(tmp_path, key, length):
    path = tmp_path / "m.gguf"
    write_gguf(path, "llama_gqa")
    content = bytearray(path.read_bytes())
    place = content.index(key) + len(key) + 8  # behind the types of the value and of its elements
    content[place : place + 8] = length.to_bytes(8, "little")
    path.write_bytes(content)
    start = time.monotonic()
    with pytest.raises(ValueError, match=r"m.gguf cannot be converted: its header is not readable"):
        fetched(path)
    assert time.monotonic() - start < 5
