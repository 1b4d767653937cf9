"""The rules of the house (docs/architecture.md), asserted on the imports and the lines of every module."""

from pathlib import Path

import pytest

from altq.runtime.code_hash import KERNELS, ROOT, imported_modules

FLOORS = (
    {"experiment"},
    {"runtime"},
    {"models", "transforms", "quantizers"},
    {"sources", "calibration"},
    {"selection"},
    {"checkpoint"},
    {"evaluation", "integration", "export", "refinement", "resources", "report"},
)
"""The packages of altq, from the ground up; each imports itself and what lies on lower floors."""

BORROWED = {
    "report": {
        "selection.agreement",
        "selection.description",
        "selection.heuristic",
        "selection.random",
        "selection.scores",
        "selection.selection",
    },
    "resources": {
        "models.config_file",
        "models.model_folder",
        "models.skeleton",  # the doctor tries it, and what follows
        "sources.wheel",
    },
    "sources": {
        "models.config_file",
        "models.configuration",
        "models.family",
        "models.model_folder",
        "models.tokenizer",
        "models.weights",
    },  # what a model folder is
    "transforms": {"runtime"},
    "evaluation": {"checkpoint", "models", "transforms", "quantizers"},
}
"""Packages that import less than their floor lets them: what they may, besides `experiment` and `runtime`."""

HEAVY = ("torch", "transformers", "pandas", "matplotlib", "numpy", "datasets", "scipy", "lm_eval")

SMALL = {
    "__init__.py",
    "altq/experiment/kinds.py",  # two lists that everything reads
    "altq/experiment/rounding.py",
    "altq/experiment/windows.py",
    "altq/runtime/consistency.py",
    "altq/commands/device.py",  # read before torch is imported
    "altq/models/context.py",
    "altq/models/logits.py",
    "altq/sources/lines.py",
    "altq/transforms/identity.py",  # a transform each
    "altq/transforms/affine.py",
    "altq/quantizers/integer.py",
    "altq/calibration/losses.py",
    "altq/integration/__main__.py",  # python -m runs what has this name
}
"""Files of fewer than 30 lines, each a concept that several others need and that belongs to none of them."""

MODULES = sorted(
    ".".join(("altq", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
    for path in ROOT.rglob("*.py")
)


def within(module, names):
    return any(module == name or module.startswith(f"{name}.") for name in names)


def imports_of(package):
    """(module, what it imports of altq, without the leading `altq.`), for every module of a package."""
    for module in MODULES:
        if within(module, [f"altq.{package}"]):
            for imported in imported_modules(module):
                if imported.startswith("altq."):
                    yield module, imported.removeprefix("altq.")


def test_every_package_lies_on_a_floor():
    folders = {path.name for path in ROOT.iterdir() if (path / "__init__.py").is_file()}
    assert folders - {"commands"} == set().union(*FLOORS)


@pytest.mark.parametrize("floor", range(len(FLOORS)))
def test_imports_run_down(floor):
    lower = set().union(*FLOORS[:floor])
    for package in FLOORS[floor]:
        for module, imported in imports_of(package):
            assert within(imported, lower | {package}), f"{module} imports {imported}"


@pytest.mark.parametrize("package", BORROWED)
def test_packages_borrow_only_what_is_named(package):
    allowed = BORROWED[package] | {package, "experiment", "runtime"}
    parents = {name.rpartition(".")[0] for name in allowed if "." in name}
    for module, imported in imports_of(package):
        # `from altq.x import y` names x as well as x.y; a package itself holds nothing.
        assert within(imported, allowed) or imported in parents, f"{module} imports {imported}"


def test_kernels_know_only_tensors():
    folder = ROOT.parent / KERNELS
    for path in folder.rglob("*.py"):
        module = ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")
        assert all(within(imported, [KERNELS]) for imported in imported_modules(module)), module


def test_no_modules_import_each_other_in_a_circle():
    names = [*MODULES]
    folder = ROOT.parent / KERNELS
    names += [
        ".".join(path.relative_to(ROOT.parent).with_suffix("").parts)
        for path in folder.rglob("*.py")
        if path.name != "__init__.py"
    ]
    # Kahn's order: whatever is left when no module without remaining imports can be taken away lies on a circle.
    imports = {
        name: {i for i in imported_modules(name) if i in names and not name.startswith(f"{i}.")} for name in names
    }
    while free := {name for name, imported in imports.items() if not imported}:
        imports = {name: imported - free for name, imported in imports.items() if name not in free}
    assert not imports, f"on or behind a circle: {', '.join(imports)}"


def test_nothing_imports_the_commands():
    for module in MODULES:
        if not within(module, ["altq.commands", "altq.cli", "altq.__main__"]):
            assert not [m for m in imported_modules(module) if within(m, ["altq.commands", "altq.cli"])], module


@pytest.mark.parametrize("package", ["experiment", "resources"])
def test_light_packages_import_nothing_heavy(package, run_python, project):
    modules = [
        module for module in MODULES if within(module, [f"altq.{package}"]) and module != "altq.resources.doctor"
    ]
    modules += ["altq.runtime.flags", "altq.runtime.code_hash", "altq.report.protocol"]
    code = f"import sys, {', '.join(modules)}; print([m for m in {HEAVY} if m in sys.modules])"
    result = run_python("-c", code, folder=project)
    assert result.stdout.strip() == "[]", result.stderr


def test_files_are_short_and_named_for_something():
    for path in (*ROOT.rglob("*.py"), *(ROOT.parent / KERNELS).rglob("*.py")):
        assert path.stem not in ("utils", "helpers", "misc", "common"), path
        lines = len(path.read_text(encoding="utf-8").splitlines())
        assert lines <= 300, path
        assert lines >= 30 or path.name in SMALL or path.relative_to(ROOT.parent).as_posix() in SMALL, path


def test_the_package_is_where_the_tests_are(project):
    assert Path(project) == ROOT.parent


def test_no_two_files_of_tests_share_a_name(project):
    """Pytest imports them by their names alone, and refuses the second of two."""
    names = [path.name for path in (project / "tests").rglob("test_*.py")]
    assert len(names) == len(set(names)), sorted(name for name in names if names.count(name) > 1)
