"""The residual stream on disk: what was finished is kept, what was not is done again."""

import pytest
import torch

from altq.models.residual_stream import ResidualStream
from altq.runtime.resume import Scratch

SHAPE = (3, 4, 5)


def begin(outputs):
    outputs.copy_(torch.arange(60.0).view(SHAPE))


def stream(folder, fingerprint="one", start=begin):
    return ResidualStream(Scratch(folder, fingerprint), SHAPE, start)


def step(of, note=0):
    def add(inputs, outputs):
        outputs.copy_(inputs + 1)
        return note

    of.advance(add)


def refuse(outputs):
    raise AssertionError("it begins anew")


def test_it_goes_on_after_the_last_finished_step(tmp_path):
    first = stream(tmp_path / "s")
    step(first, note=[1])
    step(first, note={"seen": 2})
    again = stream(tmp_path / "s", start=refuse)
    assert again.step == 2 and again.notes == [[1], {"seen": 2}]
    assert torch.equal(again.states, torch.arange(60.0).view(SHAPE) + 2)
    assert len(list((tmp_path / "s").glob("*.npy"))) == 1  # what no step needs is not kept


def test_a_step_that_fails_is_done_again(tmp_path):
    first = stream(tmp_path / "s")
    step(first)

    def fail(inputs, outputs):
        outputs.fill_(7)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        first.advance(fail)
    again = stream(tmp_path / "s", start=refuse)
    assert again.step == 1 and again.notes == [0]
    assert torch.equal(again.states, torch.arange(60.0).view(SHAPE) + 1)


def test_changes_to_what_is_read_are_not_kept(tmp_path):
    first = stream(tmp_path / "s")
    first.states.fill_(7)
    assert torch.equal(first.states, torch.arange(60.0).view(SHAPE))


def test_other_inputs_begin_anew(tmp_path):
    step(stream(tmp_path / "s"))
    assert stream(tmp_path / "s", "two").step == 0


@pytest.mark.parametrize("lost", ["unit_000000.json", "state_001.npy"])
def test_a_folder_that_is_not_whole_begins_anew(tmp_path, lost):
    step(stream(tmp_path / "s"))
    (tmp_path / "s" / lost).unlink()
    assert stream(tmp_path / "s").step == 0


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", bytes(200)])
def test_states_that_cannot_be_read_begin_anew(tmp_path, caplog, content):
    step(stream(tmp_path / "s"))
    (tmp_path / "s" / "state_001.npy").write_bytes(content)
    assert stream(tmp_path / "s").step == 0
    assert "state_001.npy cannot be read" in caplog.text


def test_states_of_another_shape_begin_anew(tmp_path):
    step(stream(tmp_path / "s"))
    again = ResidualStream(Scratch(tmp_path / "s", "one"), (2, 4, 5), lambda outputs: outputs.zero_())
    assert again.step == 0 and again.states.shape == (2, 4, 5)
