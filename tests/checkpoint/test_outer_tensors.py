"""Embedding, last norm and head in a checkpoint: as large as in the model, and the same numbers."""

import pytest
import torch
from models_for_tests import Workspace, logits, read_checkpoint
from safetensors.torch import load_file, save_file

from altq.calibration.recording import record_states
from altq.checkpoint import assembly as module
from altq.experiment.rounding import RoundingOptions
from altq.experiment.setting import Setting

RTN = RoundingOptions(weights="rtn", windows=4)


@pytest.mark.parametrize("name", ["llama_gqa", "llama_tied"])
def test_what_is_outside_the_blocks_keeps_the_type_of_the_model(name, tmp_path, monkeypatch):
    workspace = Workspace(name, tmp_path)
    path = workspace.model / "model.safetensors"
    save_file({key: tensor.bfloat16() for key, tensor in load_file(path).items()}, path, metadata={"format": "pt"})
    record_states(workspace.model, workspace.tokens, loss="relative", folder=workspace.states, fingerprint="test")
    made = {}
    for kind, outer in (("own", module._outer_tensors), ("float32", lambda skeleton: skeleton.outer_tensors)):
        monkeypatch.setattr(module, "_outer_tensors", outer)
        made[kind] = workspace.quantized(Setting(4, 4, 4, 4), ["identity"] * 4, RTN, folder=kind)
    outer = ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight")
    tensors = {kind: read_checkpoint(of.folder) for kind, of in made.items()}
    types = {kind: {of[key].dtype for key in outer if key in of} for kind, of in tensors.items()}
    assert types == {"own": {torch.bfloat16}, "float32": {torch.float32}}
    found, expected = (logits(of.model, workspace.tokens) for of in made.values())
    assert torch.equal(found, expected), "float32 holds every number of 16 bits"
