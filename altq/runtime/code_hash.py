"""A hash of the code behind a stage, so that an edit reruns the stages that it can change, and no others.

The code of a stage is its module in altq/commands and every module of altq and of kernels that this one imports, at
whatever depth and wherever in a file the import stands. Only import statements are followed; a package's C sources, in
its folder `source`, count as part of it.
"""

import ast
import hashlib
from functools import cache
from importlib.util import resolve_name
from pathlib import Path

PACKAGE = "altq"
ROOT = Path(__file__).resolve().parents[1]
KERNELS = "kernels"
"""The package of the kernels, which lies beside that of altq."""

FRAME = frozenset(
    f"{PACKAGE}.{name}"
    for name in (
        "cli",
        "commands.command",
        *(f"runtime.{name}" for name in ("code_hash", "flags", "progress", "provenance")),
    )
)
"""How a stage is called and what it notes down about itself; what it computes does not depend on these."""

PROSE = ("description", "help")
"""Arguments that hold text for people where they are constants."""


def stage_modules(entry: str) -> dict[str, Path]:
    """The modules that `entry` (e.g. "altq.commands.calibrate") runs, itself and packages included, by name.

    ValueError if there is no such module.
    """
    if _file_of(entry) is None:
        raise ValueError(f"there is no module {entry} under {ROOT}")
    found: dict[str, Path] = {}
    waiting = [entry]
    while waiting:
        module = waiting.pop()
        path = _file_of(module)
        if module in found or module in FRAME or path is None:
            continue
        found[module] = path
        waiting += imported_modules(module)
        if "." in module:
            waiting.append(module.rpartition(".")[0])
    return dict(sorted(found.items()))


@cache
def imported_modules(module: str) -> tuple[str, ...]:
    """The modules of altq and of kernels that the file of `module` itself imports."""
    path = _file_of(module)
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
    """Hexadecimal hash of what the modules of a stage say to the interpreter: comments and prose do not count.

    Data beside a module under its own name (published.py, published.json) counts as part of it.
    """
    digest = hashlib.sha256()
    for module, path in stage_modules(entry).items():
        digest.update(f"\n{module}\n{_meaning(path)}\n".encode())
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


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def _meaning(path: Path) -> str:
    return _meaning_of(path.read_text(encoding="utf-8"))


@cache
def _meaning_of(text: str) -> str:
    """What a source says to the interpreter; stages share most of their modules."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            node.keywords = [k for k in node.keywords if not (k.arg in PROSE and isinstance(k.value, ast.Constant))]
        elif isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            node.body = [part for part in node.body if not _is_text(part)] or [ast.Pass()]
    return ast.dump(tree)


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
