"""Two models compared: losses and next tokens as transformers gives them, sizes, and speeds that are numbers."""

import numpy as np
import pytest
import torch
from models_for_tests import Workspace, logits, transformers_losses, transformers_model

from altq.evaluation.comparison import NEW_TOKENS, agreement, measure
from altq.experiment.rounding import RoundingOptions
from altq.experiment.setting import Setting


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return Workspace("llama_gqa", tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def tokens():
    return np.random.default_rng(5).integers(0, 48, (3, 20), dtype=np.int32)


def test_a_model_is_measured_as_transformers_does(workspace, tokens):
    found = measure("A", workspace.model, tokens)
    assert found.measured.losses == pytest.approx(transformers_losses(workspace.model, tokens), rel=1e-4)
    likeliest = logits(transformers_model(workspace.model), tokens)[:, :-1].argmax(-1)
    assert torch.equal(found.likeliest, likeliest)
    assert found.measured.num_bytes == (workspace.model / "model.safetensors").stat().st_size
    assert found.tokens_per_second > 0 and NEW_TOKENS > 2


def test_a_checkpoint_agrees_with_itself_and_less_with_its_model(workspace, tokens):
    rounding = RoundingOptions(weights="rtn", windows=4)
    checkpoint = workspace.checkpoint(Setting(3, 3, 3, 3), ["affine"] * 4, rounding)
    one, same, model = (measure("x", folder, tokens) for folder in (checkpoint, checkpoint, workspace.model))
    assert agreement(one, same) == 1.0 and one.measured.losses == same.measured.losses
    assert 0 < agreement(one, model) < 1
    assert one.measured.over(model.measured).perplexity != 1.0


def test_a_checkpoint_that_the_kernels_do_not_know_makes_text_all_the_same(workspace, tokens):
    rounding = RoundingOptions(weights="rtn", windows=4)
    checkpoint = workspace.checkpoint(Setting(4, 16, 16, 16), ["identity"] * 4, rounding, folder="weights")
    assert measure("x", checkpoint, tokens).tokens_per_second > 0
