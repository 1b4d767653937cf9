"""A package registry of one wheel: a folder that pip is told to take for its only one."""

import hashlib
import zipfile
from pathlib import Path

from altq.experiment.sources import Wheel


def make_registry(
    folder: Path, member: str, content: bytes, package: str = "some-text"
) -> tuple[Wheel, dict[str, str]]:
    """Write a wheel with one member; how a configuration names it, and the environment in which pip finds it."""
    folder.mkdir(exist_ok=True)
    name = f"{package.replace('-', '_')}-1.2"
    path = folder / f"{name}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, content)
        archive.writestr(f"{name}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.2\n")
        archive.writestr(f"{name}.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{name}.dist-info/RECORD", "")
    digests = {"sha256": digest(path.read_bytes()), "member_sha256": digest(content)}
    wheel = Wheel(package=package, version="1.2", member=member, **digests)
    return wheel, {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder)}


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
