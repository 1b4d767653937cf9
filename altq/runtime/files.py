"""Reading and writing result files: atomic, hashed, JSON with stable key order."""

import hashlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success fsync it and rename it to `path`, on failure remove it.

    The file has the mode that the umask leaves to a new one, also where its writer (safetensors) makes a private one.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.parent / f".{path.name}.{secrets.token_hex(4)}.partial"
    os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    try:
        mode = partial.stat().st_mode & 0o777
        yield partial
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        partial.chmod(mode)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    with atomic(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` with sorted keys. NaN and infinity are refused (ValueError): no result file may hold one."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(path: str | Path) -> Any:
    return json.loads(Path(path).read_text(encoding="utf-8"))


def sha256(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_own_folder(folder: Path, remedy: str) -> None:
    """Make a folder that only this user can look into; PermissionError, with the remedy, where another's is in its place.

    A link is another's, too: what it leads to would be written to in this user's name.
    """
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700, parents=True)
    seen = folder.lstat()
    if not stat.S_ISDIR(seen.st_mode):
        problem = "is no folder, or a link to one"
    elif seen.st_uid != os.geteuid():
        problem = f"belongs to user {seen.st_uid}, and this process runs as {os.geteuid()}"
    elif seen.st_mode & 0o077:
        problem = f"is open to others (mode {stat.S_IMODE(seen.st_mode):04o}, not 0700)"
    else:
        return
    raise PermissionError(f"{folder} {problem}; {remedy}")


def require_space(folder: str | Path, num_bytes: int) -> None:
    """Raise OSError unless the disk that holds `folder` has `num_bytes` free."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        raise OSError(
            f"no disk space: {folder} needs {num_bytes / 1e9:.2f} GB, {free / 1e9:.2f} GB are free; "
            "free some space or run in another folder (`snakemake --directory`)"
        )
