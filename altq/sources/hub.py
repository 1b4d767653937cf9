"""Models, corpora and tasks of the Hugging Face hub, at a pinned revision."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from altq.experiment.sources import CorpusDescription, TaskDescription, split_address
from altq.runtime import files
from altq.sources.corpus_file import conversation_of

if TYPE_CHECKING:
    import datasets
    import pyarrow

MODEL_FILES = ["config.json", "generation_config.json", "model*.safetensors", "model.safetensors.index.json"]
TOKENIZER_FILES = [
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model*", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt", "chat_template.jinja", "additional_chat_templates/*.jinja",
]  # fmt: skip
CARD_FILE = "README.md"
"""Read for the licence, and not kept."""
CODE_FILES = ["*.py"]
"""Never fetched: no code of a model is run."""


def fetch_config(address: str, folder: Path) -> None:
    """Write the config.json of a hub model to `folder`: small enough to be looked at before the weights are fetched."""
    _snapshot(address, folder, ["config.json"])


def fetch_files(address: str, folder: Path) -> None:
    """Write the configuration, tokenizer and safetensors of a hub model to `folder`; an interrupted call resumes.

    Raises ValueError for a model or revision that does not exist or needs an account, ConnectionError when offline,
    OSError without disk space.
    """
    _snapshot(address, folder, [*MODEL_FILES, *TOKENIZER_FILES, CARD_FILE])


def read_split(description: CorpusDescription, split: str) -> list[str]:
    """The texts of one split of a hub data set, in its order, empty rows included.

    Raises ValueError for a data set, revision or text field that does not exist, ConnectionError when offline.
    """
    address = _address_of(description)
    data_files = None
    if description.files:
        name = split.split("[")[0]
        data_files = {name: description.files[name]}
    with _explained("corpus", address):
        rows = _load(address, description.subset, split=split, data_files=data_files)
    field = description.messages_field or description.text_field
    if field not in rows.column_names:
        key = "messages_field" if description.messages_field else "text_field"
        raise ValueError(
            f"hub corpus {description.hub} has no field {field!r} (it has: {', '.join(rows.column_names)}); correct {key}"
        )
    place = f"hub corpus {description.hub}, split {split}, row"
    if description.messages_field:
        return [conversation_of(row, field, f"{place} {number}") for number, row in enumerate(rows)]
    texts = list(rows[field])
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"{place} {number}: its {field} is a {type(text).__name__}, not text; correct text_field")
    return texts


def read_items(description: TaskDescription, split: str) -> "pyarrow.Table":
    """The rows of one split of a hub data set. Raises as `read_split` does, and for a split that is not there."""
    address = _address_of(description)
    with _explained("task", address):
        return _load(address, description.subset, split=split).data.table


def _address_of(description: CorpusDescription | TaskDescription) -> str:
    assert description.hub is not None, "a source on the hub"
    return description.hub


def _load(address: str, subset: str | None, split: str, data_files: dict[str, str] | None = None) -> "datasets.Dataset":
    """The rows of a split at the address's own revision, whatever lies in the cache or beside the run."""
    from datasets import load_dataset_builder
    from datasets.packaged_modules.cache.cache import Cache

    repository, revision = split_address(address)
    # As an address: a bare name would be read from a folder of that name.
    builder = load_dataset_builder(f"hf://datasets/{repository}", subset, data_files=data_files, revision=revision)
    # Where the hub is out of reach, the library takes a cached revision of the data set, whichever it is.
    if isinstance(builder, Cache) and builder.hash != revision:
        raise ConnectionError(f"the hub is out of reach, and the cache has revision {builder.hash}, not {revision}")
    builder.download_and_prepare()
    return builder.as_dataset(split=split)


def _snapshot(address: str, folder: Path, patterns: list[str]) -> None:
    from huggingface_hub import snapshot_download

    repository, revision = split_address(address)
    arguments: dict[str, Any] = {"repo_id": repository, "revision": revision, "local_dir": folder}
    arguments["allow_patterns"] = patterns
    arguments["ignore_patterns"] = CODE_FILES
    with _explained("model", address):
        planned = snapshot_download(**arguments, dry_run=True)
    files.require_space(folder, sum(file.file_size for file in planned if file.will_download))
    with _explained("model", address):
        snapshot_download(**arguments)


@contextmanager
def _explained(noun: str, address: str) -> Iterator[None]:
    """Turn the hub's many exceptions into ValueError or ConnectionError with a remedy."""
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub.errors import DryRunError, GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    by_hand = {
        "model": "download the model folder elsewhere and give that (`path: <folder>` in a configuration)",
        "corpus": "download its files elsewhere and give them as `paths: {calibration: <file>, test: <file>}`",
        "task": "download its file elsewhere and give it as `path: <file>`",
    }[noun]
    try:
        yield
    except ValueError:
        raise
    # The hub's clients raise what their transports raise, of no common type.
    except Exception as error:
        reason = error.__cause__ if isinstance(error, DryRunError) and error.__cause__ else error
        if isinstance(reason, OSError) and reason.errno == errno.ENOSPC:
            raise
        if isinstance(reason, GatedRepoError):
            raise ValueError(
                f"hub {noun} {address} needs an account: accept its licence there and run `hf auth login`; or {by_hand}"
            ) from error
        if isinstance(reason, (RepositoryNotFoundError, RevisionNotFoundError, DatasetNotFoundError)):
            raise ValueError(
                f"hub {noun} {address} was not found, or is not open to this account: correct its name or revision; "
                f"or {by_hand}"
            ) from error
        raise ConnectionError(
            f"hub {noun} {address} could not be fetched ({type(reason).__name__}: {reason}); connect to the hub and "
            f"run again, what is there already is kept; or {by_hand}"
        ) from error
