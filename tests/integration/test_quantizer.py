"""Checkpoints within transformers: its own model, text, pipeline and saving, with altq's own numbers to the bit."""

import copy
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import HfApi, ModelCard
from models_for_tests import MODELS, VOCAB, Workspace, change_checkpoint, logits, make_tokens
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    PreTrainedTokenizerFast,
    TextStreamer,
    pipeline,
)

import altq.integration  # noqa: F401  (registers the checkpoints)
from altq.checkpoint.format import is_checkpoint
from altq.checkpoint.packed_model import load_packed_model
from altq.checkpoint.quantized_model import load_model
from altq.experiment.rounding import RoundingOptions
from altq.experiment.setting import Setting
from altq.runtime.files import read_json, write_json

KINDS = ["affine", "rotation", "balance", "identity"]
SETTINGS = (Setting(4, 4, 4, 4), Setting(3, 3, 2, 2), Setting(16, 4, 16, 4))
WORDS = {f"w{index}": index for index in range(VOCAB - 1)} | {"<unk>": VOCAB - 1}
PROMPTS = torch.tensor([[3, 7, 5, 11, 2, 9, 30], [8, 1, 1, 4, 40, 6, 2]])


@pytest.fixture(scope="module", params=["llama_gqa", "gemma3_text"])
def workspace(request, tmp_path_factory):
    """A model with a chat template and settings of generation; gemma3_text has a window."""
    made = Workspace(request.param, tmp_path_factory.mktemp(request.param))
    tokenizer = Tokenizer(models.WordLevel(WORDS, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="w1", pad_token="w0")
    fast.chat_template = "{% for turn in messages %}w9 {{ turn['content'] }}{% endfor %}"
    fast.save_pretrained(made.model)
    (made.model / "additional_chat_templates").mkdir()
    (made.model / "additional_chat_templates" / "rag.jinja").write_text("rag: {{ messages[0]['content'] }}")
    write_json(made.model / "generation_config.json", {"eos_token_id": [1, 17], "pad_token_id": 0, "do_sample": False})
    return made


@pytest.fixture(params=SETTINGS, ids=str)
def checkpoint(request, workspace):
    rounding = RoundingOptions(weights="rtn", windows=4)
    return workspace.checkpoint(request.param, KINDS, rounding, folder=f"checkpoint-{request.param}")


@pytest.fixture(scope="module")
def one(workspace):
    return workspace.checkpoint(SETTINGS[0], KINDS, RoundingOptions(weights="rtn", windows=4), folder="one")


def same(model, own, tokens):
    return (logits(model, tokens) - logits(own, tokens)).abs().max().item() == 0.0


def test_logits_are_altq_own(checkpoint):
    loaded, tokens = AutoModelForCausalLM.from_pretrained(checkpoint), make_tokens(windows=6, length=20, seed=3)
    assert same(loaded, load_model(checkpoint), tokens)
    assert loaded.dtype == torch.float32 and loaded.config.quantization_config.quant_method == "altq"


@pytest.mark.parametrize("name", MODELS)
def test_every_family_loads_with_altq_own_logits(name, tmp_path):
    made = Workspace(name, tmp_path).checkpoint(SETTINGS[0], KINDS, RoundingOptions(weights="gptq", windows=4))
    own = load_model(made)
    assert same(AutoModelForCausalLM.from_pretrained(made), own, make_tokens(windows=3, length=14, seed=3))
    assert logits(own, PROMPTS.numpy()).isfinite().all()


def test_text_is_what_altq_own_model_makes_without_a_cache(checkpoint):
    """Greedy, drawn and by beams, of a batch with padding on the left."""
    loaded, own = AutoModelForCausalLM.from_pretrained(checkpoint), load_model(checkpoint)
    mask = torch.ones_like(PROMPTS)
    mask[0, :2] = 0
    for options in ({}, {"do_sample": True, "temperature": 1.5, "top_p": 0.9}, {"num_beams": 3}):
        texts = []
        for model in (loaded, own):
            torch.manual_seed(5)
            made = model.generate(
                PROMPTS, attention_mask=mask, max_new_tokens=9, pad_token_id=0, eos_token_id=[1, 17], **options
            )
            texts.append(made.tolist())
        assert texts[0] == texts[1]
        assert len(texts[0][0]) > PROMPTS.shape[1]


def test_a_cache_holds_quantized_tokens_whoever_makes_it(one):
    model = AutoModelForCausalLM.from_pretrained(one)
    with torch.no_grad():
        raw = model(PROMPTS[:1, :4], use_cache=True)  # made within the model: kept as tokens come, quantized when read
        cache = DynamicCache(config=model.config)
        quantized = model(PROMPTS[:1, :4], past_key_values=cache)
        assert torch.equal(raw.logits, quantized.logits)
        steps = [model(PROMPTS[:1, 4:], past_key_values=of.past_key_values).logits for of in (raw, quantized)]
    assert torch.allclose(*steps, atol=1e-4)
    widths = [max(len(row.unique()) for row in of.past_key_values.layers[0].values[0, 0]) for of in (raw, quantized)]
    assert widths[1] <= 16 and not torch.equal(raw.past_key_values.layers[0].keys, cache.layers[0].keys)


def test_a_copied_cache_is_not_quantized_twice(one):
    model = AutoModelForCausalLM.from_pretrained(one)
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(PROMPTS[:1, :4], past_key_values=cache)
        copied = copy.deepcopy(cache)
        found, expected = (model(PROMPTS[:1, 4:], past_key_values=of).logits for of in (copied, cache))
    assert torch.equal(found, expected)


def test_streams_and_pipelines_give_the_same_text(one, capsys):
    model, tokenizer = AutoModelForCausalLM.from_pretrained(one), AutoTokenizer.from_pretrained(one)
    inputs, options = tokenizer("w3 w5", return_tensors="pt"), {"max_new_tokens": 6, "do_sample": False}
    capsys.readouterr()
    expected = model.generate(inputs["input_ids"], attention_mask=inputs["attention_mask"], **options)[0]
    model.generate(
        inputs["input_ids"], attention_mask=inputs["attention_mask"], streamer=TextStreamer(tokenizer), **options
    )
    assert capsys.readouterr().out == tokenizer.decode(expected) + "\n"
    (found,) = pipeline("text-generation", model=str(one), device="cpu")("w3 w5", return_tensors=True, **options)
    assert found["generated_token_ids"] == expected.tolist()


def test_what_generation_and_chat_need_is_carried_along(one):
    model, tokenizer = AutoModelForCausalLM.from_pretrained(one), AutoTokenizer.from_pretrained(one)
    assert model.generation_config.eos_token_id == [1, 17]
    turns = tokenizer.apply_chat_template([{"role": "user", "content": "w4"}], tokenize=False)
    assert turns == "w9 w4"
    assert tokenizer.get_chat_template("rag").startswith("rag: ")
    own = load_model(one)
    assert own.generation_config.eos_token_id == [1, 17], "also where transformers does not load it"


def test_saved_again_it_is_the_same_checkpoint(one, workspace, tmp_path):
    own = load_model(one)
    model, saved = AutoModelForCausalLM.from_pretrained(one), tmp_path / "saved"
    model.save_pretrained(saved, max_shard_size="10KB")
    assert len(list(saved.glob("altq-*.safetensors"))) > 1 and not list(saved.glob("model*"))
    assert is_checkpoint(saved)
    assert str(one) not in "".join(path.read_text() for path in saved.glob("*.json"))
    for load in (AutoModelForCausalLM.from_pretrained, load_model):
        assert same(load(saved), own, workspace.tokens)
    assert (
        read_json(saved / "config.json")["quantization_config"] == read_json(one / "config.json")["quantization_config"]
    )
    assert AutoModelForCausalLM.from_pretrained(saved).generation_config.eos_token_id == [1, 17]
    with pytest.raises(ValueError, match="save it to another folder"):
        model.save_pretrained(one)
    with pytest.raises(ValueError, match="is saved by its own save_pretrained"):
        type(model).save_pretrained(model, tmp_path / "other")


def test_a_model_that_altq_loaded_is_saved_as_a_checkpoint(one, workspace, tmp_path):
    own = load_model(one)
    own.save_pretrained(tmp_path / "saved")
    assert is_checkpoint(tmp_path / "saved") and not list((tmp_path / "saved").glob("model*"))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert same(loaded, own, workspace.tokens) and loaded.generation_config.eos_token_id == [1, 17]


def test_what_is_pushed_to_the_hub_is_the_checkpoint(one, monkeypatch):
    """The one call that uploads is replaced; what it would send is loaded again."""
    sent = {}

    def create_commit(api, repo_id, operations, **options):
        sent.update({operation.path_in_repo: Path(operation.path_or_fileobj).read_bytes() for operation in operations})
        return SimpleNamespace(oid="0" * 40)

    monkeypatch.setattr(HfApi, "create_commit", create_commit)
    monkeypatch.setattr(HfApi, "create_repo", lambda api, repo_id, **options: SimpleNamespace(repo_id=repo_id))
    monkeypatch.setattr("transformers.utils.hub.create_and_tag_model_card", lambda *_, **__: ModelCard("---\n---\n"))
    AutoModelForCausalLM.from_pretrained(one).push_to_hub("me/mine", max_shard_size="10KB")
    weights = {name for name in sent if name.endswith(".safetensors")}
    assert len(weights) > 1 and all(name.startswith("altq-") for name in weights)
    beside = {"README.md", "altq.safetensors.index.json", "config.json", "generation_config.json", "quantization.json"}
    assert sent.keys() - weights == beside
    assert json.loads(sent["config.json"])["quantization_config"]["quant_method"] == "altq"


def test_packed_products_are_an_option(one, workspace):
    config = AutoConfig.from_pretrained(one)
    config.quantization_config["products"] = "packed"
    model = AutoModelForCausalLM.from_pretrained(one, config=config)
    assert same(model, load_packed_model(one), workspace.tokens)
    assert "products" not in model.config.to_dict()["quantization_config"]
    config.quantization_config["products"] = "fast"
    with pytest.raises(ValueError, match="'fast' is not known"):
        AutoModelForCausalLM.from_pretrained(one, config=config)


@pytest.mark.parametrize("name", ["model.norm.weight", "model.layers.0.mlp.up_proj.codes", "model.layers.1.qkv.clip"])
def test_what_is_missing_is_named_and_never_made_up(one, tmp_path, name):
    folder = shutil.copytree(one, tmp_path / "checkpoint")
    change_checkpoint(folder, lambda tensors: tensors.pop(name, None))
    index = read_json(folder / "altq.safetensors.index.json")
    del index["weight_map"][name]
    write_json(folder / "altq.safetensors.index.json", index)
    with pytest.raises(ValueError, match=f"lacks {name}; assemble the checkpoint again"):
        AutoModelForCausalLM.from_pretrained(folder)


def test_other_devices_are_refused(one):
    with pytest.raises(ValueError, match="runs on the CPU alone, and meta is asked for"):
        AutoModelForCausalLM.from_pretrained(one, device_map="meta")
