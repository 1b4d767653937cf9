"""The package beside others: it knows only tensors, and nobody takes it for another package of its name."""

import ast
from pathlib import Path

import kernels

ROOT = Path(kernels.__file__).parent
FILES = sorted((ROOT / "triton").glob("*.py")) + sorted((ROOT / "reference").glob("*.py")) + sorted(ROOT.glob("*.py"))


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


def test_references_know_no_kernel():
    for path in (ROOT / "reference").glob("*.py"):
        allowed = ("kernels.reference", "torch", "typing", "collections.abc", "math")
        assert not [name for name in imports(path) if not name.startswith(allowed)], path


def test_files_are_short():
    for path in FILES:
        assert len(path.read_text().splitlines()) <= 320, path


def test_transformers_takes_it_for_no_package_of_its_own(run_python, project):
    # It looks for a package `kernels` of Hugging Face, from whose hub it would load kernels.
    code = (
        "import kernels, transformers, triton; from transformers.utils import is_kernels_available;"
        "from transformers.integrations import hub_kernels; from kernels.triton import launch;"
        "print(is_kernels_available(), 'site-packages' in triton.__file__, launch.triton is triton)"
    )
    result = run_python("-c", code, folder=project)
    assert result.stdout.split() == ["False", "True", "True"], result.stderr
