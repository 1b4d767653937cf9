"""Write envs/lock*.txt: versions and the sha256 of every file that `make` may install. Run by `make lock`.

pip-compile (pip-tools) resolves pyproject.toml with all its extras within constraints.txt and lists the hashes of all
files of each version, for every platform. Two parts have files of their own: what source distributions are built with,
which is installed first, and torch, of which there are two builds. That of the registry needs CUDA on Linux. A CPU build is
taken where pip is told of one; with the registry's hashes beside its own, pip would never choose it.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PARTS = {"lock-build.txt": re.compile("setuptools=="), "lock-cuda.txt": re.compile("torch==|(cuda|nvidia)-")}
"""What is in a file of its own, by how its lines begin; the rest is in lock.txt."""

CPU_BUILD = (
    "torch==2.13.0+cpu",
    "6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b",
)
"""torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl, which the registry does not have."""

OPTIONS = (
    "--quiet", "--generate-hashes", "--all-extras", "--allow-unsafe", "--strip-extras", "--no-annotate", "--no-header",
    "--no-emit-index-url", "--no-emit-trusted-host", "--no-emit-find-links", "--no-emit-options",
)  # fmt: skip


def main() -> None:
    """Resolve, split and write."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "lock.txt"
        command = [sys.executable, "-P", "-m", "piptools", "compile", *OPTIONS, "--constraint", "constraints.txt"]
        # Without the local builds that pip may be told of: they would be locked in place of the registry's.
        alone = os.environ | {"PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": ""}
        subprocess.run([*command, "--output-file", str(output), "pyproject.toml"], cwd=ROOT, env=alone, check=True)
        write(output.read_text(encoding="utf-8"))


def write(compiled: str) -> None:
    """Write the files from what pip-compile wrote."""
    build, digest = CPU_BUILD
    parts = {
        "lock.txt": [],
        "lock-build.txt": [],
        "lock-cuda.txt": [],
        "lock-cpu.txt": [f"{build} \\\n    --hash=sha256:{digest}"],
    }
    for entry in re.findall(r"^\S+==.*(?:\n    --hash=.*)*", compiled, re.MULTILINE):
        name = next((name for name, part in PARTS.items() if part.match(entry)), "lock.txt")
        # pip-compile leaves out the conditions of what is no direct requirement; torch asks for CUDA on Linux alone.
        is_cuda = name == "lock-cuda.txt" and not entry.startswith("torch")
        parts[name].append(entry.replace(" \\\n", ' ; sys_platform == "linux" \\\n', 1) if is_cuda else entry)
    for name, entries in parts.items():
        text = "\n".join(["# Written by `make lock`; docs/security.md says what for.", *entries]) + "\n"
        (ROOT / "envs" / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
