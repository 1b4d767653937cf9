"""Compiling the kernels at first use, and keeping the library in the user's cache."""

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from kernels.cpu.variant import Variant

SOURCE = Path(__file__).resolve().parent / "source"
FLAGS = (
    "-O3",
    "-std=gnu11",
    "-fPIC",
    "-shared",
    "-fopenmp",
    "-ffp-contract=off",
    "-Wall",
    "-Wextra",
    "-Werror=implicit",
)
COMPILERS = ("cc", "gcc", "clang")


class BuildError(RuntimeError):
    """The kernels cannot be compiled here; the message says why and what to do."""


def build(variant: Variant) -> Path:
    """The shared library of a variant, compiled unless the cache has it for these sources, flags and compiler.

    Processes that build at once do no harm: each compiles beside the final name and renames. Raises BuildError.
    """
    compiler = _compiler()
    command = [compiler, *FLAGS, *variant.flags]
    try:
        library = _cache_folder() / f"{variant.name}-{_key(command)}.so"
        if library.is_file():
            return library
        library.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            made = Path(folder) / library.name
            result = _run([*command, str(SOURCE / "kernels.c"), "-o", str(made), "-lm"])
            if result.returncode:
                last = "\n".join(result.stderr.strip().splitlines()[-8:])
                raise BuildError(f"{' '.join(command)} failed on {SOURCE / 'kernels.c'}:\n{last}")
            os.replace(made, library)
    except OSError as error:
        raise BuildError(f"the kernels cannot be compiled and kept ({error}); set XDG_CACHE_HOME or CC") from error
    return library


def _compiler() -> str:
    candidates = [os.environ["CC"]] if os.environ.get("CC") else COMPILERS
    for name in candidates:
        if path := shutil.which(name):
            return path
    raise BuildError(f"no C compiler was found ({', '.join(candidates)}); install gcc or clang, or set CC")


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "altq" / "kernels"


def _key(command: list[str]) -> str:
    """A hash of the sources, the flags and the compiler's own account of itself."""
    digest = hashlib.sha256("\0".join(command).encode())
    digest.update(_run([command[0], "--version"]).stdout.encode())
    for path in sorted(SOURCE.iterdir()):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)
