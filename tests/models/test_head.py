"""What the head is, everywhere: what it is when transformers loads the folder."""

import pytest
import torch
from models_for_tests import (
    Workspace,
    make_tokens,
    perplexity_losses,
    save_tiny_model,
    transformers_losses,
    transformers_model,
)  # fmt: skip
from safetensors.torch import load_file, save_file

from altq.checkpoint.quantized_model import open_model
from altq.experiment.rounding import RoundingOptions
from altq.experiment.setting import Setting
from altq.models.skeleton import Skeleton
from altq.transforms.rotation import random_orthogonal

TOKENS = make_tokens(windows=2, length=9)
FILE = "model.safetensors"
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def rewrite(folder, change):
    tensors = load_file(folder / FILE)
    change(tensors)
    save_file(tensors, folder / FILE, metadata={"format": "pt"})
    return folder


def add_another_head(tensors):
    tensors[HEAD] = torch.randn(tensors[EMBEDDING].shape, generator=torch.Generator().manual_seed(7)) / 6


def add_the_same_head(tensors):
    tensors[HEAD] = tensors[EMBEDDING].clone()


def name_the_embedding_a_head(tensors):
    tensors[HEAD] = tensors.pop(EMBEDDING)


@pytest.mark.parametrize(
    ("change", "is_tied"),
    [(add_another_head, False), (add_the_same_head, True), (name_the_embedding_a_head, True), (dict, True)],
)
def test_a_tied_model_has_the_head_that_transformers_gives_it(tmp_path, change, is_tied):
    folder = rewrite(save_tiny_model("llama_tied", tmp_path), change)
    expected = transformers_losses(folder, TOKENS)
    skeleton = Skeleton(folder)
    assert perplexity_losses(skeleton, TOKENS) == pytest.approx(expected, rel=1e-5)
    assert skeleton.config.tie_word_embeddings == is_tied == (HEAD not in skeleton.outer_tensors)
    rotation = random_orthogonal(32, torch.Generator().manual_seed(0)).float()
    assert perplexity_losses(Skeleton(folder, rotation=rotation), TOKENS) == pytest.approx(expected, rel=1e-4)
    head = transformers_model(folder).get_output_embeddings().weight
    assert torch.equal(skeleton.fill().get_output_embeddings().weight, head)


def test_a_checkpoint_keeps_the_head_of_its_model(tmp_path):
    workspace = Workspace("llama_tied", tmp_path)
    rewrite(workspace.model, add_another_head)
    full = Setting(16, 16, 16, 16)
    checkpoint = workspace.quantized(full, ["identity"] * 4, RoundingOptions(weights="rtn", windows=4))
    expected = transformers_losses(workspace.model, TOKENS)
    assert perplexity_losses(open_model(checkpoint.folder), TOKENS) == pytest.approx(expected, rel=1e-4)
