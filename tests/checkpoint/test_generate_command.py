"""The commands that run a packed checkpoint: text, and its perplexity."""

import json

import numpy as np
import pytest
from models_for_tests import Workspace, make_tokens
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from altq.cli import main
from altq.experiment.rounding import RoundingOptions
from altq.experiment.setting import Setting
from altq.runtime.files import sha256
from altq.runtime.provenance import write_provenance

WORDS = {f"w{index}": index for index in range(47)} | {"<unk>": 47}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    workspace = Workspace("llama_gqa", tmp_path_factory.mktemp("generate"))
    tokenizer = Tokenizer(models.WordLevel(WORDS, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(workspace.model)
    rounding = RoundingOptions(weights="rtn", windows=4)
    folder = workspace.checkpoint(Setting(4, 4, 4, 4), ["affine"] * 4, rounding)
    write_provenance(folder, {"command": "assemble"})
    return folder, workspace.model


def generated(capsys, folder, *argv):
    assert main(["generate", "--folder", str(folder), "--prompt", "w3 w5", "--max-new-tokens", "6", *argv]) == 0
    return capsys.readouterr()


@pytest.mark.parametrize("options", [[], ["--temperature", "1.5", "--top-k", "9", "--top-p", "0.9", "--seed", "4"]])
def test_text_comes_with_its_speed_and_memory(checkpoint, capsys, options):
    folder, model = checkpoint
    said = generated(capsys, folder, *options)
    assert said.out.startswith("w3 w5 w") and len(said.out.split()) == 8
    assert "2 tokens of the prompt" in said.err and "tokens per second" in said.err and "kernels" in said.err
    assert generated(capsys, folder, *options).out == said.out
    assert "full precision" in generated(capsys, model, *options).err
    assert "kernels" in generated(capsys, folder, "--embedding", "bfloat16", *options).err


def test_bad_requests_are_one_message(checkpoint, capsys):
    argv = ["generate", "--folder", str(checkpoint[0]), "--prompt", "w3"]
    for options, message in (
        (["--max-new-tokens", "0"], "makes no text"),
        (["--temperature", "-1"], "must not be negative"),
        (["--top-p", "1.5"], "no probability"),
        (["--chat"], "has no chat template"),
    ):
        assert main([*argv, *options]) == 1
        assert message in capsys.readouterr().err


def test_perplexity_of_packed_weights_is_that_of_the_checkpoint(checkpoint, tmp_path):
    np.save(tmp_path / "test.npy", make_tokens(windows=3, length=16))
    drawn = {"num_windows": 3, "window_length": 16, "tokens_sha256": sha256(tmp_path / "test.npy")}
    (tmp_path / "test.json").write_text(json.dumps({"model": "m", "corpus": "c", "bos": "window", **drawn}))
    argv = ["--folder", checkpoint[0], "--tokens", tmp_path / "test.npy"]
    results = {}
    for command in ("perplexity", "perplexity-packed"):
        path = tmp_path / f"{command}.json"
        assert main([command, *map(str, argv), "--output", str(path)]) == 0
        results[command] = json.loads(path.read_text())
    plain, packed = results.values()
    for result in (plain, packed):
        labels = {name: result[name] for name in ("method", "setting", "weights", "seed")}
        assert labels == {"method": "test", "setting": "W4A4K4V4", "weights": "rtn", "seed": 0}
        assert result["bos"] == "window"
    assert packed["perplexity"] == pytest.approx(plain["perplexity"], rel=1e-3)
    assert packed["kernels"] and packed["provenance"]["command"] == "perplexity-packed"
