"""The residual stream on disk: what was finished is kept, what was not is done again."""

import pytest
import torch

from altq.models.residual_stream import ResidualStream

SHAPE = (3, 4, 5)


def begin(outputs):
    outputs.copy_(torch.arange(60.0).view(SHAPE))


def stream(folder, fingerprint="one", start=begin):
    return ResidualStream(folder, fingerprint, SHAPE, start)


def step(of, add=1.0):
    with of.advance() as (inputs, outputs):
        outputs.copy_(inputs + add)


def refuse(outputs):
    raise AssertionError("it begins anew")


def test_it_goes_on_after_the_last_finished_step(tmp_path):
    first = stream(tmp_path / "s")
    step(first)
    first.notes["seen"] = [1]
    step(first)
    again = stream(tmp_path / "s", start=refuse)
    assert again.step == 2 and again.notes == {"seen": [1]}
    assert torch.equal(again.states, torch.arange(60.0).view(SHAPE) + 2)
    assert len(list((tmp_path / "s").glob("*.npy"))) == 1  # what no step needs is not kept


def test_a_step_that_fails_is_done_again(tmp_path):
    first = stream(tmp_path / "s")
    step(first)
    with pytest.raises(RuntimeError), first.advance() as (_, outputs):
        outputs.fill_(7)
        first.notes["lost"] = True
        raise RuntimeError
    again = stream(tmp_path / "s", start=refuse)
    assert again.step == 1 and again.notes == {}
    assert torch.equal(again.states, torch.arange(60.0).view(SHAPE) + 1)


def test_changes_to_what_is_read_are_not_kept(tmp_path):
    first = stream(tmp_path / "s")
    first.states.fill_(7)
    assert torch.equal(first.states, torch.arange(60.0).view(SHAPE))


def test_other_inputs_begin_anew(tmp_path):
    step(stream(tmp_path / "s"))
    assert stream(tmp_path / "s", "two").step == 0


@pytest.mark.parametrize("lost", ["progress.json", "state_001.npy"])
def test_a_folder_that_is_not_whole_begins_anew(tmp_path, lost):
    step(stream(tmp_path / "s"))
    (tmp_path / "s" / lost).unlink()
    assert stream(tmp_path / "s").step == 0


def test_nothing_is_left_when_it_is_discarded(tmp_path):
    stream(tmp_path / "s").discard()
    assert list(tmp_path.iterdir()) == []
