"""A hash of the code behind a stage, so that an edit reruns the stages that it can change, and no others.

The code of a stage is its command's function in altq/commands with what that uses there, and every module of altq and
of kernels that is imported for it, at whatever depth and wherever in a file the import stands. Only import statements
are followed; a package's C sources, in its folder `source`, count as part of it.
"""

import ast
import hashlib
from functools import cache
from importlib.util import resolve_name
from pathlib import Path
from typing import NamedTuple

PACKAGE = "altq"
ROOT = Path(__file__).resolve().parents[1]
KERNELS = "kernels"
"""The package of the kernels, which lies beside that of altq."""

FRAME = frozenset(
    f"{PACKAGE}.{name}"
    for name in (
        "cli",
        "commands.command",
        *(f"runtime.{name}" for name in ("code_hash", "flags", "gpu", "lineage", "progress", "provenance")),
    )
)
"""Modules that call a stage and record it; its results do not depend on them."""

PROSE = ("description", "help")
"""Arguments that hold text for people where they are constants."""


def stage_modules(entry: str) -> dict[str, Path]:
    """The modules that a command (e.g. "fetch-model") or a module runs, itself and packages included, by name.

    Of the file that defines a command only what its function uses counts: other commands beside it do not matter.
    ValueError if there is no such command or module.
    """
    paths: dict[str, Path] = {}
    if "." in entry:
        if _file_of(entry) is None:
            raise ValueError(f"there is no module {entry} under {ROOT}")
        waiting = [entry]
    else:
        module = command_module(entry)
        paths[module] = _source_of(module)
        waiting = [*_command(entry).modules]
    while waiting:
        module = waiting.pop()
        path = _file_of(module)
        if module in paths or module in FRAME or path is None:
            continue
        paths[module] = path
        waiting += imported_modules(module)
        if "." in module:
            waiting.append(module.rpartition(".")[0])
    return dict(sorted(paths.items()))


@cache
def command_module(command: str) -> str:
    """The module that defines a command, in the function of its name; ValueError if there is none."""
    for path in sorted((ROOT / "commands").glob("*.py")):
        if isinstance(_definitions(path).get(function_of(command)), ast.FunctionDef):  # and not imported from elsewhere
            return f"{PACKAGE}.commands.{path.stem}"
    raise ValueError(f"there is no command {command}")


def function_of(command: str) -> str:
    """The name of a command's function; that of its flags is this with `_flags` behind it."""
    return command.replace("-", "_")


class _Command(NamedTuple):
    """Statements of a command's file that its function uses, and the modules that these import."""

    statements: list[ast.stmt]
    modules: tuple[str, ...]


@cache
def _command(command: str) -> _Command:
    definitions = _definitions(_source_of(command_module(command)))
    waiting = [function_of(command), f"{function_of(command)}_flags"]
    statements: dict[str, ast.stmt] = {}
    modules: set[str] = set()
    while waiting:
        name = waiting.pop()
        statement = definitions.get(name)
        if statement is None or name in statements:
            continue
        statements[name] = statement
        if isinstance(statement, ast.ImportFrom):
            assert statement.module is not None, "a command imports by full names"
            origins = {alias.asname or alias.name: alias.name for alias in statement.names}
            modules |= {statement.module, f"{statement.module}.{origins[name]}"}
        else:
            waiting += [node.id for node in ast.walk(statement) if isinstance(node, ast.Name)]
    body = [statement for _, statement in sorted(statements.items()) if not isinstance(statement, ast.ImportFrom)]
    return _Command(body, tuple(sorted(modules)))


@cache
def _definitions(path: Path) -> dict[str, ast.stmt]:
    """The statements at the top of a file, by the names that they define or import."""
    definitions: dict[str, ast.stmt] = {}
    for statement in _tree(path).body:
        match statement:
            case ast.FunctionDef() | ast.ClassDef():
                definitions[statement.name] = statement
            case ast.ImportFrom():
                definitions |= {alias.asname or alias.name: statement for alias in statement.names}
            case ast.Assign():
                definitions |= {target.id: statement for target in statement.targets if isinstance(target, ast.Name)}
            case ast.AnnAssign(target=ast.Name(id=name)):
                definitions[name] = statement
    return definitions


@cache
def imported_modules(module: str) -> tuple[str, ...]:
    """The modules of altq and of kernels that the file of `module` itself imports."""
    path = _source_of(module)
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    names = set()
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            origin = resolve_name("." * node.level + (node.module or ""), package)
            names |= {origin} | {f"{origin}.{alias.name}" for alias in node.names}
    return tuple(sorted(name for name in names if name != module and _file_of(name) is not None))


@cache
def code_hash(entry: str) -> str:
    """Hexadecimal hash of the syntax trees of a stage's modules: comments and prose do not count.

    Data beside a module under its own name (published.py, published.json) counts as part of it.
    """
    digest = hashlib.sha256()
    own_module = None if "." in entry else command_module(entry)
    for module, path in stage_modules(entry).items():
        meaning = _meaning_of_command(entry) if module == own_module else _meaning(path)
        digest.update(f"\n{module}\n{meaning}\n".encode())
        data = path.with_suffix(".json")
        sources = sorted((path.parent / "source").glob("*.[ch]")) if path.name == "__init__.py" else []
        for file in [data, *sources]:
            if file.is_file():
                digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _file_of(module: str) -> Path | None:
    package, *parts = module.split(".")
    if package not in (PACKAGE, KERNELS):
        return None
    path = (ROOT if package == PACKAGE else ROOT.parent / KERNELS).joinpath(*parts)
    for candidate in (path / "__init__.py", path.with_name(path.name + ".py")):
        if candidate.is_file():
            return candidate
    return None


def _source_of(module: str) -> Path:
    """The file of a module that exists."""
    path = _file_of(module)
    assert path is not None, f"there is no module {module}"
    return path


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def _meaning_of_command(command: str) -> str:
    return _meaning_of("\n".join(map(ast.unparse, _command(command).statements)))


def _meaning(path: Path) -> str:
    return _meaning_of(path.read_text(encoding="utf-8"))


@cache
def _meaning_of(text: str) -> str:
    """Syntax tree of a source without prose, as text; cached, since stages share most of their modules."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            node.keywords = [k for k in node.keywords if not (k.arg in PROSE and isinstance(k.value, ast.Constant))]
        elif isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            node.body = [part for part in node.body if not _is_text(part)] or [ast.Pass()]
    return ast.dump(tree)


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
