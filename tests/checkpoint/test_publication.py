"""A checkpoint in a second place: the same bytes, nothing of an earlier one, and nobody's model written over."""

import pytest

from altq.checkpoint.publication import publish


def write_checkpoint(folder, parts, content="x"):
    for name in (*(f"altq-0000{part}.safetensors" for part in parts), "config.json", "quantization.json", "README.md"):
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(content)
    (folder / "additional_chat_templates").mkdir(exist_ok=True)
    (folder / "additional_chat_templates" / "rag.jinja").write_text(content)
    (folder / ".residual_stream.partial").write_text("hidden")
    return folder


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_it_is_the_same_but_for_hidden_files(tmp_path):
    checkpoint = write_checkpoint(tmp_path / "checkpoint", (1, 2))
    publish(checkpoint, tmp_path / "a" / "out")
    expected = {name: text for name, text in files(checkpoint).items() if not name.startswith(".")}
    assert files(tmp_path / "a" / "out") == expected
    linked = [tmp_path / "a" / "out" / name for name in ("altq-00001.safetensors", "config.json")]
    assert [path.stat().st_nlink for path in linked] == [2, 1], "what libraries write to in place is copied"


def test_nothing_of_an_earlier_one_stays(tmp_path):
    publish(write_checkpoint(tmp_path / "before", (1, 2, 3)), tmp_path / "out")
    publish(write_checkpoint(tmp_path / "after", (1,), "y"), tmp_path / "out")
    assert set(files(tmp_path / "out").values()) == {"y"} and "altq-00003.safetensors" not in files(tmp_path / "out")
    assert files(tmp_path / "before")["altq-00001.safetensors"] == "x"


def test_without_links_it_is_copied(tmp_path, monkeypatch):
    monkeypatch.setattr("os.link", lambda *_: (_ for _ in ()).throw(OSError("another disk")))
    publish(write_checkpoint(tmp_path / "checkpoint", (1,)), tmp_path / "out")
    assert (tmp_path / "out" / "altq-00001.safetensors").stat().st_nlink == 1


def test_a_model_is_not_written_over(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model.safetensors").write_text("mine")
    with pytest.raises(ValueError, match="holds a model already"):
        publish(write_checkpoint(tmp_path / "checkpoint", (1,)), tmp_path / "out")
    assert files(tmp_path / "out") == {"model.safetensors": "mine"}
