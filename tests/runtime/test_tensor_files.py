"""Files of tensors are whole or absent, and what stops the writing of one says which and why."""

import errno

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from altq.runtime import tensor_files
from altq.runtime.tensor_files import read_hidden_states, write_tensors, written_hidden_states


def test_tensors_come_back_and_need_not_be_contiguous(tmp_path):
    tensors = {"a": torch.arange(12.0).view(3, 4).T, "b": torch.tensor([1], dtype=torch.int8)}
    write_tensors(tmp_path / "t.safetensors", tensors, {"format": "pt"})
    read = load_file(tmp_path / "t.safetensors")
    assert read.keys() == tensors.keys() and all(torch.equal(read[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize(("text", "kind"), [("No space left (os error 28)", OSError), ("no such", SafetensorError)])
def test_what_the_system_refuses_is_an_error_of_the_system(tmp_path, monkeypatch, text, kind):
    def refuse(*_, **__):
        raise SafetensorError(f"Error while serializing: I/O error: {text}")

    monkeypatch.setattr(tensor_files, "save_file", refuse)
    with pytest.raises(kind) as raised:
        write_tensors(tmp_path / "t.safetensors", {})
    if kind is OSError:
        assert raised.value.errno == errno.ENOSPC and raised.value.filename == str(tmp_path / "t.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_nothing_that_is_not_finite_is_written(tmp_path, value, dtype):
    damaged = torch.ones(3, 4, dtype=dtype)
    damaged[2, 1] = value
    path = tmp_path / "t.safetensors"
    with pytest.raises(ValueError, match=rf"{path} is not written: tensor o.moment holds NaN or infinity at 1 of 12"):
        write_tensors(path, {"count": torch.tensor(3), "fine": torch.ones(2), "o.moment": damaged})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_hidden_states_that_are_not_finite_are_not_written(tmp_path, value):
    path = tmp_path / "state.npy"
    said = f"{path} is not written: window 2 of the hidden states holds NaN or infinity"
    with pytest.raises(ValueError, match=said), written_hidden_states(path, (3, 4, 5)) as states:
        states.fill_(1)
        states[2, 3, 4] = value
    assert not list(tmp_path.iterdir())


def test_hidden_states_are_there_when_all_of_them_are_filled_in(tmp_path):
    path = tmp_path / "state.npy"
    with written_hidden_states(path, (3, 4, 5)) as states:
        states[:2] = 1
        assert not path.exists()
        states[2:] = 2
    read = read_hidden_states(path)
    assert read.dtype == torch.float32 and read.sum() == 2 * 20 + 2 * 20
    read += 1
    assert read_hidden_states(path).sum() == 80, "changes to what was read are not kept"


def test_hidden_states_that_are_not_finished_leave_nothing(tmp_path):
    with pytest.raises(RuntimeError), written_hidden_states(tmp_path / "state.npy", (3, 4, 5)):
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_space_is_asked_for_before_anything_is_filled_in(tmp_path):
    with (
        pytest.raises(OSError, match="No space left"),
        written_hidden_states(tmp_path / "state.npy", (1 << 20, 1 << 10, 1 << 10)),
    ):
        pytest.fail("four terabytes were given")
