"""Docstrings as CONTRIBUTING asks for them, as far as a parser can tell."""

import ast
import re
from collections.abc import Iterator

import pytest

from altq.runtime.code_hash import KERNELS, ROOT

INCOMPLETE = re.compile(r"(What|The same|As|From|Of|With|Whose|Such|Like|Seen|Found|Known|Made|Said|Taken|Given|Had)\b")
"""Beginnings of a sentence that its neighbours complete, or that has no noun."""

OBVIOUS = re.compile(r"(.+_flags|add_\w+)$")
"""Functions of altq/commands that declare flags, whose help says what they are."""

NOT_ANNOUNCED = {"AssertionError", "NotImplementedError"}
"""Errors for programmers."""

FILES = [path for folder in (ROOT, ROOT.parent / KERNELS) for path in sorted(folder.rglob("*.py"))]


def name_of(path) -> str:
    return path.relative_to(ROOT.parent).as_posix()


def is_command(path) -> bool:
    return path.parent == ROOT / "commands"


def is_kernel(node: ast.AST) -> bool:
    """Whether a function is Triton's, which names its pointers and is documented where it is launched."""
    return isinstance(node, ast.FunctionDef) and any("jit" in ast.unparse(d) for d in node.decorator_list)


def public(body: list[ast.stmt]) -> Iterator[ast.FunctionDef | ast.ClassDef]:
    """Public functions and classes, and their public methods."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from public(node.body)


def raised(function: ast.FunctionDef) -> set[str]:
    """Names of the errors that a function itself raises anew and does not catch."""
    caught = [
        node
        for attempt in ast.walk(function)
        if isinstance(attempt, ast.Try)
        for part in attempt.body
        for node in ast.walk(part)
        if isinstance(node, ast.Raise) and any(_error(node) in ast.unparse(h.type or h) for h in attempt.handlers)
    ]
    names = {_error(node) for node in ast.walk(function) if isinstance(node, ast.Raise) and node not in caught}
    return {name for name in names if name.endswith("Error")} - NOT_ANNOUNCED


def _error(node: ast.Raise) -> str:
    """The name of the class of a new error, empty for one that is raised again."""
    return node.exc.func.id if isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name) else ""


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_public_names_have_docstrings_whose_first_line_is_a_sentence_by_itself(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree) or not tree.body, "a module says what it is"
    for node in public(tree.body):
        docstring = ast.get_docstring(node)
        is_obvious = is_kernel(node) or (is_command(path) and OBVIOUS.match(node.name))
        assert docstring or node not in tree.body or is_obvious, f"{node.name} has no docstring"
        if docstring:
            first = docstring.splitlines()[0]
            assert first.endswith((".", ":")), f"{node.name}: {first!r} is no whole sentence"
            assert not INCOMPLETE.match(first), f"{node.name}: {first!r} begins as part of another sentence"


@pytest.mark.parametrize("path", [path for path in FILES if not is_command(path)], ids=name_of)
def test_public_functions_name_the_errors_that_they_raise(path):
    """Commands do not: their help is for those who read the messages."""
    for node in public(ast.parse(path.read_text(encoding="utf-8")).body):
        if isinstance(node, ast.FunctionDef) and (errors := raised(node)):
            docstring = ast.get_docstring(node) or ""
            assert all(error in docstring for error in errors), f"{node.name} raises {', '.join(sorted(errors))}"


@pytest.mark.parametrize(
    ("function", "errors"),
    [
        ("def f():\n    raise ValueError('x')", {"ValueError"}),
        ("def f():\n    raise ValueError('x') from None", {"ValueError"}),
        ("def f():\n    try:\n        g()\n    except OSError:\n        raise", set()),
        ("def f():\n    try:\n        raise ValueError('x')\n    except (OSError, ValueError):\n        g()", set()),
        (
            "def f():\n    try:\n        g()\n    except OSError:\n        raise ValueError('x') from None",
            {"ValueError"},
        ),
        ("def f():\n    raise AssertionError('x')", set()),
    ],
)
def test_raised_errors_are_found(function, errors):
    assert raised(ast.parse(function).body[0]) == errors


@pytest.mark.parametrize("first", ["What it holds.", "The same in float64.", "From a file.", "Seen by all."])
def test_sentences_that_need_a_neighbour_are_told(first):
    assert INCOMPLETE.match(first)


@pytest.mark.parametrize("first", ["Whether it holds.", "Asymmetric codes.", "Read a file.", "Official names."])
def test_sentences_that_stand_alone_are_let_through(first):
    assert not INCOMPLETE.match(first)
