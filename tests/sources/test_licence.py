"""The licence of a model, wherever its files say it; what cannot be read says nothing."""

import pytest
from gguf_for_tests import write_gguf

from altq.sources.licence import licence_of


@pytest.mark.parametrize(
    ("card", "config", "licence"),
    [
        ("---\nlicense: mit\ntags: [a]\n---\n# Model", '{"license": "other"}', "mit"),
        ("# Model\n---\nlicense: mit\n---\n", '{"license": "other"}', "other"),
        ("---\nlicense: [mit]\n---\n", None, None),
        ("---\nlicense: mit", None, None),
        ("---\na: [\n---\n", "{}", None),
        ("---\nplain\n---\n", "[]", None),
        (None, None, None),
    ],
)
def test_a_folder(tmp_path, card, config, licence):
    for name, text in (("README.md", card), ("config.json", config)):
        if text is not None:
            (tmp_path / name).write_text(text)
    assert licence_of(tmp_path) == licence


def test_a_gguf_file(tmp_path):
    write_gguf(tmp_path / "a.gguf", "llama_gqa", keys={"general.license": "apache-2.0"})
    assert licence_of(tmp_path / "a.gguf") == "apache-2.0"
    write_gguf(tmp_path / "b.gguf", "llama_gqa")
    assert licence_of(tmp_path / "b.gguf") is None
