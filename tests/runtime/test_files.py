"""Nothing partial is ever left under a final name, and no result file holds a NaN."""

import errno
import hashlib
import os

import pytest

from altq.runtime.files import atomic, read_json, require_space, sha256, write_json, write_text


def test_a_failure_leaves_what_was_there(tmp_path):
    path = tmp_path / "results" / "table.csv"
    write_text(path, "old")
    with pytest.raises(RuntimeError), atomic(path) as partial:
        partial.write_text("new")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_a_new_file_appears_whole(tmp_path):
    path = tmp_path / "a" / "b"
    with atomic(path) as partial:
        partial.write_bytes(b"12")
        assert not path.exists()
    assert path.read_bytes() == b"12"


def test_json_reads_back_and_is_ordered(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"b": [1, 2.5], "a": "ä"})
    assert read_json(path) == {"a": "ä", "b": [1, 2.5]}
    assert path.read_text(encoding="utf-8").index('"a"') < path.read_text(encoding="utf-8").index('"b"')


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_refuses_what_is_not_finite(tmp_path, value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"perplexity": value})
    assert list(tmp_path.iterdir()) == []


def test_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()


def test_no_disk_space_says_how_much(tmp_path):
    with pytest.raises(OSError, match=r"needs 1000000000.00 GB, .* are free"):
        require_space(tmp_path, 10**18)
    require_space(tmp_path / "new", 1)


@pytest.fixture(params=[0o002, 0o022, 0o077])
def umask(request):
    """A umask for the length of a test."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_files_have_the_mode_that_the_umask_leaves(tmp_path, umask):
    import torch

    from altq.runtime.tensor_files import write_tensors, written_hidden_states

    write_json(tmp_path / "a.json", {})
    # This library writes a private file beside the one that it is told, and renames it.
    write_tensors(tmp_path / "a.safetensors", {"x": torch.zeros(2)})
    with written_hidden_states(tmp_path / "a.npy", (1, 2, 3)):
        pass
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == dict.fromkeys(("a.json", "a.safetensors", "a.npy"), 0o666 & ~umask)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
def test_an_error_of_writing_names_the_file_and_no_hidden_one(tmp_path, number):
    for filename in (None, str(tmp_path / ".a.json.x1.partial")):
        with pytest.raises(OSError) as caught, atomic(tmp_path / "a.json"):
            raise OSError(number, "whatever", filename)
        assert (caught.value.errno, caught.value.filename) == (number, str(tmp_path / "a.json"))
        assert ".partial" not in str(caught.value)


def test_an_error_about_another_file_keeps_its_name(tmp_path):
    with pytest.raises(FileNotFoundError, match="elsewhere"), atomic(tmp_path / "a.json"):
        (tmp_path / "elsewhere").read_bytes()


def test_a_folder_that_cannot_be_written_is_named_by_the_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError) as caught, atomic(tmp_path / "file" / "a.json"):
        pass
    assert ".partial" not in str(caught.value) and str(tmp_path / "file") in str(caught.value)
