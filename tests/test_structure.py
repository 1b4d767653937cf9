"""Dependencies point one way (DESIGN.md): asserted on the imports of every module."""

from pathlib import Path

import pytest

from altq.code_hash import KERNELS, ROOT, imported_modules

PARTS = {"sources", "models", "transforms", "quantizers"}
FOUNDATION = {"files", "setting", "precision", "progress", "stopping", "tasks", "tensor_files"}
MODULES = sorted(
    ".".join(("altq", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
    for path in ROOT.rglob("*.py")
)

# What a package may import besides itself and the foundation.
ALLOWED = {
    "sources": {"models.family", "models.shape"},  # descriptions
    "models": set(),
    "transforms": set(),
    "quantizers": set(),
    "statistics": {"models"},
    "calibration": PARTS,
    "selection": {"models", "transforms", "quantizers", "statistics", "calibration"},
    "methods": {*PARTS, "calibration", "selection", "kernels.cpu"},
    "evaluation": {"models", "transforms", "quantizers", "methods"},
    "resources": {
        "calibration.recipe",
        "code_hash",
        "configuration",
        "methods.table",
        "models.shape",
        "sources.description",
    },
    "report": {
        "configuration",
        "calibration.recipe",
        "calibration.end_to_end_recipe",
        "methods.table",
        "methods.baselines",
        "methods.rounding",
        "selection.agreement",
        "selection.heuristic",
        "selection.options",
        "selection.random",
        "selection.scores",
        "selection.selection",
        "sources.description",
        "study",
    },
}


def within(module, names):
    return any(module == name or module.startswith(f"{name}.") for name in names)


@pytest.mark.parametrize("package", ALLOWED)
def test_packages_import_only_what_they_may(package):
    for module in MODULES:
        if not within(module, [f"altq.{package}"]):
            continue
        for imported in imported_modules(module):
            name = imported.removeprefix("altq.").removeprefix("altq")
            # `from altq.x import y` names x as well as x.y; the package itself holds nothing.
            if not name or within(name, FOUNDATION | {package} | ALLOWED[package]):
                continue
            parents = {allowed.rpartition(".")[0] for allowed in ALLOWED[package]}
            assert name in parents, f"{module} imports {imported}"


def test_kernels_know_only_tensors():
    folder = ROOT.parent / KERNELS
    for path in folder.rglob("*.py"):
        module = ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")
        assert all(within(imported, [KERNELS]) for imported in imported_modules(module)), module


def test_every_package_has_a_rule():
    folders = {path.name for path in ROOT.iterdir() if (path / "__init__.py").is_file()}
    assert folders - {"commands"} == ALLOWED.keys()


def test_the_foundation_knows_nothing_above_it():
    for name in FOUNDATION:
        imported = {module.removeprefix("altq.") for module in imported_modules(f"altq.{name}")} - {"altq"}
        assert imported <= FOUNDATION, f"{name} imports {imported - FOUNDATION}"


def test_nothing_imports_the_commands():
    for module in MODULES:
        if not within(module, ["altq.commands", "altq.cli", "altq.__main__"]):
            assert not [m for m in imported_modules(module) if within(m, ["altq.commands", "altq.cli"])], module


def test_the_workflow_imports_nothing_heavy(run_python, project):
    heavy = ("torch", "transformers", "pandas", "matplotlib", "numpy", "datasets")
    imports = "altq.configuration, altq.options, altq.report.protocol, altq.code_hash, altq.methods.table, altq.setting"
    imports += ", altq.resources.needs"
    code = f"import sys, {imports}; print([m for m in {heavy} if m in sys.modules])"
    result = run_python("-c", code, folder=project)
    assert result.stdout.strip() == "[]", result.stderr


def test_files_are_short_and_named_for_something():
    for path in (*ROOT.rglob("*.py"), *(ROOT.parent / KERNELS).rglob("*.py")):
        assert path.stem not in ("utils", "helpers", "misc", "common"), path
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 300, path


def test_the_package_is_where_the_tests_are(project):
    assert Path(project) == ROOT.parent
