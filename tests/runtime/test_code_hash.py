"""The hash of a stage's code follows imports and meaning, and nothing else."""

import pytest

from altq.runtime import code_hash
from altq.runtime.code_hash import FRAME, imported_modules, stage_modules


@pytest.fixture
def hash_of(tmp_path, monkeypatch):
    """The hash of `altq.first`, which imports `altq.second` inside a function, after some edits of their texts."""
    (tmp_path / "__init__.py").write_text("")
    texts = {
        "first.py": '"""Text."""\n\ndef run(x):\n    from altq import second\n    return second.twice(x)\n',
        "second.py": "def twice(x):\n    return 2 * x\n",
        "other.py": "A = 1\n",
    }
    monkeypatch.setattr(code_hash, "ROOT", tmp_path)

    def hashed(**edits: str) -> str:
        for name, text in {**texts, **{f"{name}.py": text for name, text in edits.items()}}.items():
            (tmp_path / name).write_text(text)
        for cached in (code_hash.code_hash, code_hash.imported_modules):
            cached.cache_clear()
        return code_hash.code_hash("altq.first")

    yield hashed
    monkeypatch.undo()
    code_hash.code_hash.cache_clear()
    code_hash.imported_modules.cache_clear()


def test_an_edit_of_what_is_imported_counts(hash_of):
    assert hash_of() != hash_of(second="def twice(x):\n    return x + x\n")


def test_an_edit_elsewhere_does_not(hash_of):
    assert hash_of() == hash_of(other="A = 2\n")


def test_comments_docstrings_and_layout_do_not_count(hash_of):
    prose = '"""Other text."""\n\n\ndef twice(x):\n    """The double."""\n    # why\n    return (2 *\n        x)\n'
    assert hash_of() == hash_of(second=prose)


def test_help_does_not_count_but_other_arguments_do(hash_of):
    call = "f = dict(help={!r}, size={})\n"
    assert hash_of(second=call.format("a", 1)) == hash_of(second=call.format("b", 1))
    assert hash_of(second=call.format("a", 1)) != hash_of(second=call.format("a", 2))


def test_computed_descriptions_count(hash_of):
    assert hash_of(second="f = dict(description=g(1))\n") != hash_of(second="f = dict(description=g(2))\n")


def test_data_beside_a_module_counts(hash_of, tmp_path):
    before = hash_of()
    (tmp_path / "second.json").write_text("{}")
    assert hash_of() != before


def test_kernels_and_their_c_sources_count(hash_of, tmp_path, monkeypatch):
    package, uses = tmp_path / "altq", "from kernels import cpu\n"
    monkeypatch.setattr(code_hash, "ROOT", package)
    source = tmp_path / "kernels" / "cpu" / "source"
    for folder in (package, source):
        folder.mkdir(parents=True)
    for file in (package / "__init__.py", tmp_path / "kernels" / "__init__.py", source.parent / "__init__.py"):
        file.write_text("")
    (package / "first.py").write_text(uses)

    def hashed(c_source: str) -> str:
        (source / "kernels.c").write_text(c_source)
        code_hash.code_hash.cache_clear()
        return code_hash.code_hash("altq.first")

    first = hashed("int x;")
    assert first != hashed("int y;") and first == hashed("int x;")
    assert "kernels.cpu" in code_hash.stage_modules("altq.first")


def test_of_the_kernels_tables_depend_on_the_scale_alone():
    scale = {"kernels", "kernels.reference", "kernels.reference.scale"}
    for command in ("perplexity", "assemble", "calibrate"):
        modules = stage_modules(command)
        assert {name for name in modules if name.startswith("kernels")} <= scale
    assert "kernels.cpu.linear" in stage_modules("generate")


def test_a_module_that_does_not_exist_is_an_error():
    with pytest.raises(ValueError, match="nothing"):
        stage_modules("nothing")


def test_relative_imports_are_followed(tmp_path, monkeypatch):
    (tmp_path / "__init__.py").write_text("")
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "__init__.py").write_text("")
    (tmp_path / "part" / "one.py").write_text("from . import two\nfrom ..top import A\n")
    (tmp_path / "part" / "two.py").write_text("")
    (tmp_path / "top.py").write_text("A = 1\n")
    monkeypatch.setattr(code_hash, "ROOT", tmp_path)
    imported_modules.cache_clear()
    assert set(stage_modules("altq.part.one")) == {"altq", "altq.part", "altq.part.one", "altq.part.two", "altq.top"}
    imported_modules.cache_clear()


def test_stages_hold_their_own_code_and_not_the_frame():
    states, table = stage_modules("states"), stage_modules("table2")
    assert "altq.calibration.states" in states and "altq.models.weights" in states
    assert not any(name.startswith(("altq.report", "altq.transforms", "altq.selection")) for name in states)
    assert "altq.report.published" in table
    assert not FRAME & (states.keys() | table.keys())


def test_of_a_file_of_commands_only_what_a_command_uses_counts(tmp_path, monkeypatch):
    commands = """
import argparse
from altq.first import one
from altq.second import two

LIMIT = 3

def a_flags(parser): parser.add_argument("--x", default=LIMIT)
def a(arguments): return _shared(one())
def _shared(x): return x
def b_flags(parser): pass
def b(arguments): return _shared(two())
"""
    (tmp_path / "commands").mkdir()
    for folder in (tmp_path, tmp_path / "commands"):
        (folder / "__init__.py").write_text("")
    for name in ("one", "two"):
        (tmp_path / f"{'first' if name == 'one' else 'second'}.py").write_text(f"def {name}(): return 1\n")
    monkeypatch.setattr(code_hash, "ROOT", tmp_path)
    file = tmp_path / "commands" / "group.py"

    def hashes(text: str) -> tuple[str, str]:
        file.write_text(text)
        for cached in vars(code_hash).values():
            if hasattr(cached, "cache_clear"):
                cached.cache_clear()
        return code_hash.code_hash("a"), code_hash.code_hash("b")

    try:
        a, b = hashes(commands)
        assert "altq.second" not in stage_modules("a") and "altq.first" in stage_modules("a")
        assert hashes(commands.replace("two())", "two() + 1)")) == (a, code_hash.code_hash("b")) and a != b
        changed = hashes(commands.replace("LIMIT = 3", "LIMIT = 4"))
        assert changed[0] != a and changed[1] == b
        changed = hashes(commands.replace("return x", "return x + 1"))
        assert changed[0] != a and changed[1] != b
    finally:
        monkeypatch.undo()
        for cached in vars(code_hash).values():
            if hasattr(cached, "cache_clear"):
                cached.cache_clear()
