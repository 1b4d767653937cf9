"""The package beside others: it knows only tensors, and nobody takes it for another package of its name."""

import ast
from pathlib import Path

import kernels

ROOT = Path(kernels.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
ROOMS = {"reference": (), "cpu": ("reference",), "triton": ("reference",), "measure": ("reference", "cpu", "triton")}
"""The packages, and what each may import besides itself."""


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import could mean kernels.triton by triton"
            yield node.module


def test_kernels_know_only_tensors():
    for path in FILES:
        assert not [name for name in imports(path) if name.split(".")[0] in ("altq", "transformers")], path


def test_no_import_runs_up():
    assert {path.name for path in ROOT.iterdir() if (path / "__init__.py").is_file()} == ROOMS.keys()
    for room, below in ROOMS.items():
        allowed = tuple(f"kernels.{name}" for name in (room, *below))
        for path in (ROOT / room).rglob("*.py"):
            own = [name for name in imports(path) if name.startswith("kernels")]
            assert all(f"{name}.".startswith(tuple(f"{a}." for a in allowed)) for name in own), path


def test_references_are_plain_torch():
    for path in (ROOT / "reference").glob("*.py"):
        allowed = ("kernels.reference", "torch", "typing", "collections.abc", "dataclasses", "math")
        assert not [name for name in imports(path) if not name.startswith(allowed)], path


def test_no_modules_import_each_other():
    modules = {".".join(("kernels", *path.relative_to(ROOT).with_suffix("").parts)): path for path in FILES}
    edges = {name: {target for target in imports(path) if target in modules} for name, path in modules.items()}
    while free := [name for name, targets in edges.items() if not targets & edges.keys()]:
        for name in free:
            del edges[name]
    assert not edges, f"modules that import each other, or one that does: {sorted(edges)}"


def test_files_hold_30_to_300_lines():
    for path in FILES:
        lines = len(path.read_text().splitlines())
        assert (path.name == "__init__.py" or lines >= 30) and lines <= 300, path


def test_transformers_takes_it_for_no_package_of_its_own(run_python, project):
    # It looks for a package `kernels` of Hugging Face, from whose hub it would load kernels.
    code = (
        "import kernels, transformers, triton; from transformers.utils import is_kernels_available;"
        "from transformers.integrations import hub_kernels; from kernels.triton import launch;"
        "print(is_kernels_available(), 'site-packages' in triton.__file__, launch.triton is triton)"
    )
    result = run_python("-c", code, folder=project)
    assert result.stdout.split() == ["False", "True", "True"], result.stderr
