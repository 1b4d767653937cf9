"""Reading and writing files: atomic, hashed, JSON with stable key order; errors name the file and the place in it."""

import hashlib
import json
import os
import re
import secrets
import shutil
import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

HALF_A_CHARACTER = re.compile(r"\\u[dD][89a-fA-F]")
"""The escape of a surrogate, of which a text should have pairs."""

PARTIAL = ".partial"
"""How the hidden name of a file ends while it is written."""


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success fsync it and rename it to `path`, on failure remove it.

    The file has the mode that the umask leaves to a new one, also where its writer (safetensors) makes a private one.
    """
    path = Path(path)
    with errors_naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.parent / f".{path.name}.{secrets.token_hex(4)}{PARTIAL}"
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


@contextmanager
def errors_naming(path: str | Path) -> Iterator[None]:
    """Let an OSError name `path` where it names no file (a write does not) or a hidden one that is being written."""
    try:
        yield
    except OSError as error:
        if error.errno is None or (error.filename is not None and not str(error.filename).endswith(PARTIAL)):
            raise
        # The constructor picks the class by the number: FileNotFoundError and so on stay what they are.
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error


def write_text(path: str | Path, text: str) -> None:
    """Write text in UTF-8, whole or not at all."""
    with atomic(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` with sorted keys. NaN and infinity are refused (ValueError): no result file may hold one."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n")


def decoded(content: bytes, name: str | Path) -> str:
    """Text in UTF-8, with or without a byte order mark; ValueError names the line that is none."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # The offsets of an error count from behind the byte order mark; `object` is what they count in.
        line = error.object[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{name} is not UTF-8: line {line} has the byte 0x{error.object[error.start]:02x}; save it as UTF-8"
        ) from None


def parse_json(text: str, name: str | Path) -> Any:
    """The value of a JSON text; ValueError with line and column, for a key given twice, and for nesting without end."""
    try:
        return json.loads(text, object_pairs_hook=_distinct_keys)
    except json.JSONDecodeError as error:
        raise ValueError(f"{name} is no JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise ValueError(f"{name} is no JSON that can be read: its brackets are nested too deeply") from None
    except ValueError as error:  # a key that is given twice, or a number of thousands of digits
        raise ValueError(f"{name} is no JSON that can be read: {error}") from None


def _distinct_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        doubled = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {doubled!r} is given twice")
    return content


def read_json(path: str | Path, name: str | Path | None = None) -> Any:
    """The value of a JSON file; ValueError where it is none, or has a text that no file can hold.

    name: what messages call it, its path by default.
    """
    name = name or path
    text = decoded(Path(path).read_bytes(), name)
    content = parse_json(text, name)
    if HALF_A_CHARACTER.search(text):
        try:
            json.dumps(content, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError as error:
            surrogate = error.object[error.start]
            raise ValueError(f"{name} is no JSON that can be used: it has {surrogate!a}, half of a character") from None
    return content


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
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode):
        problem = "is no folder, or a link to one"
    elif status.st_uid != os.geteuid():
        problem = f"belongs to user {status.st_uid}, and this process runs as {os.geteuid()}"
    elif status.st_mode & 0o077:
        problem = f"is open to others (mode {stat.S_IMODE(status.st_mode):04o}, not 0700)"
    else:
        return
    raise PermissionError(f"{folder} {problem}; {remedy}")


def free_space(folder: str | Path) -> int:
    """Free bytes of the disk that holds `folder`, or the nearest folder above it that is there."""
    folder = Path(folder).absolute()
    return shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.is_dir())).free


def require_space(folder: str | Path, num_bytes: int) -> None:
    """Raise OSError unless the disk that holds `folder` has `num_bytes` free."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    free = free_space(folder)
    if free < num_bytes:
        raise OSError(
            f"no disk space: {folder} needs {num_bytes / 1e9:.2f} GB, {free / 1e9:.2f} GB are free; "
            "free some space or run in another folder (`snakemake --directory`)"
        )
