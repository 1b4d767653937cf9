"""Compilation of the kernels at first use; the library stays in the user's cache.

A loaded library runs in this process: the cache has to be this user's alone, and the library complete.
"""

import hashlib
import os
import shutil
import stat
import subprocess
import tempfile
import warnings
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
HASH = ".sha256"
"""Suffix of the file beside a library that holds its hash."""
OTHERS_WRITE = 0o022
ABSENT = "is not there"


class BuildError(RuntimeError):
    """The kernels cannot be compiled here; the message says why and what to do."""


def build(variant: Variant) -> Path:
    """The shared library of a variant, compiled unless the cache has it for these sources, flags and compiler.

    A library in the cache is loaded if it is this user's, closed to others' writing, and has the sha256 in the file
    beside it; otherwise it is compiled anew, with a warning. Processes may build at once: each compiles beside the
    final name and renames. Raises BuildError, also for a cache folder that is another user's.
    """
    compiler = _compiler()
    command = [compiler, *FLAGS, *variant.flags]
    try:
        folder = _own_folder()
        library = folder / f"{variant.name}-{_key(command)}.so"
        problem = _problem(library)
        if problem is None:
            return library
        if problem != ABSENT:
            warnings.warn(f"{library} {problem}: it is not loaded, but compiled anew", stacklevel=2)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            output = Path(scratch) / library.name
            result = _run([*command, str(SOURCE / "kernels.c"), "-o", str(output), "-lm"])
            if result.returncode:
                last = "\n".join(result.stderr.strip().splitlines()[-8:])
                raise BuildError(f"{' '.join(command)} failed on {SOURCE / 'kernels.c'}:\n{last}")
            _keep(output, library)
    except OSError as error:
        raise BuildError(f"the kernels cannot be compiled and kept ({error}); set XDG_CACHE_HOME or CC") from error
    return library


def _own_folder() -> Path:
    """The cache folder, whose files nobody else can have put there; PermissionError where it is another user's.

    A folder that others could write to is closed to them, and its libraries are compiled anew.
    """
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "altq" / "kernels"
    for place in (folder.parent, folder):
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = place.stat()
        if status.st_uid != os.geteuid():
            raise PermissionError(f"{place} belongs to user {status.st_uid}, and this process runs as {os.geteuid()}")
        if status.st_mode & OTHERS_WRITE:
            place.chmod(0o700)
            for note in folder.glob(f"*{HASH}"):
                note.unlink()
    return folder


def _problem(library: Path) -> str | None:
    """Reason not to load a library; None for one that is unchanged since it was compiled."""
    if not library.exists() and not library.is_symlink():
        return ABSENT
    status, note = library.lstat(), library.with_name(library.name + HASH)
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & OTHERS_WRITE:
        return "is a link, another user's, or open to others' writing"
    if not note.is_file() or note.read_text(encoding="utf-8") != _sha256(library):
        return f"has not the sha256 of {note.name}"
    return None


def _keep(output: Path, library: Path) -> None:
    """Give the hash of a new library its final name, then the library its own: nobody sees one before its hash."""
    note = output.with_name(output.name + HASH)
    note.write_text(_sha256(output), encoding="utf-8")
    for path in (output, note):
        path.chmod(0o600)
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    os.replace(note, library.with_name(note.name))
    os.replace(output, library)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _compiler() -> str:
    candidates = [os.environ["CC"]] if os.environ.get("CC") else COMPILERS
    for name in candidates:
        if path := shutil.which(name):
            return path
    raise BuildError(f"no C compiler was found ({', '.join(candidates)}); install gcc or clang, or set CC")


def _key(command: list[str]) -> str:
    """Hash of the sources, the flags and the compiler's version."""
    digest = hashlib.sha256("\0".join(command).encode())
    digest.update(_run([command[0], "--version"]).stdout.encode())
    for path in sorted(SOURCE.iterdir()):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)
