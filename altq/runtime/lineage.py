"""Lineage of inputs, by their records: inputs of different lineage, or changed since they were written, are refused.

A model is known by the hashes of its files, states by those of theirs, tokens by the model that they were drawn for;
what a result rests on is in its history.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from altq.experiment.tasks import ITEMS_FILE
from altq.runtime.code_hash import code_hash
from altq.runtime.consistency import require_consistency
from altq.runtime.files import read_json, sha256
from altq.runtime.provenance import note_of, read_record, recorded_path
from altq.runtime.resume import fingerprint_of

OPTIONS = "the options given"
REMEDIES = {
    "index.json": "delete {folder}/index.json and run again: this entry alone is calibrated anew",
    "quantization.json": "remove {folder} and assemble again",
    "states.json": "remove {folder} and run `altq states` again",
}
"""Remedies for a file that has changed since it was written, by the file that is written last into its folder."""

BANK_COMMANDS = ("calibrate", "calibrate-end-to-end")
"""The commands that make banks."""


def check_lineage(inputs: Iterable[str | Path], options: Mapping[str, str] | None = None) -> None:
    """Raise ValueError unless inputs agree with each other and with the traits in `options`."""
    require_consistency({OPTIONS: options or {}, **{path: lineage(path) for path in map(Path, inputs)}})


def run_fingerprint(command: str, options: Mapping[str, Any], inputs: Iterable[str | Path]) -> str:
    """The fingerprint of a run: of its code, its options and all that is in its inputs.

    ValueError where a file of an input is not the one that was written.
    """
    contents = [content_of(Path(path)) for path in inputs]
    return fingerprint_of({"code": code_hash(command), "options": dict(options), "inputs": contents})


def lineage(path: Path) -> dict[str, str]:
    """Traits of an input: its model and, where they apply, its states, setting, seeds, task and so on.

    ValueError where it was made from two models.
    """
    record, upstream = _history(path)
    history, options = [record, *upstream.values()], record.get("options", {})
    traits = {}
    if models := {model for entry in history if (model := _model_of(entry))}:
        if len(models) > 1:
            raise ValueError(f"{path} was made from {len(models)} different models; make it again from one")
        traits["model"] = _short(models.pop())
    if states := _states_of(record, upstream):
        traits["calibration states"] = _short(states)
    settings = {entry["options"]["setting"] for entry in history if "setting" in entry.get("options", {})}
    if "setting" in options or len(settings) == 1:
        traits["setting"] = options.get("setting") or settings.pop()
    if "rounding" in options:
        traits["weight rounding"] = options["rounding"]["weights"]
    if record.get("command") in BANK_COMMANDS:
        traits["calibration seed"] = str(options["seed"])
    # A selection may have been chosen by what was calibrated with other seeds: it is not of their windows.
    if record.get("command") in (None, "states", *BANK_COMMANDS):
        for tokens in (entry for entry in history if entry.get("split") == "calibration"):
            traits |= {
                "calibration text": _short(tokens["text_sha256"]),
                "seed of the windows": str(tokens["seed"]),
                "beginning of the windows": tokens.get("bos", "never"),
            }
    for task in (entry for entry in history if "task" in entry and "items" in entry):
        traits |= {"task": task["task"], "items": _short(task["sha256"])}
    return traits


def result_lineage(path: Path) -> dict[str, str]:
    """Traits of a result that all results in a table share: one model, text and selection for each name and seed."""
    record, upstream = _history(path)
    content = _place(path) if path.is_dir() else read_json(path) if path.suffix == ".json" else {}
    if not (model := content.get("model")):
        return {}
    traits = {f"model {model}": hash_ for name, hash_ in lineage(path).items() if name == "model"}
    if record.get("command") == "select":
        traits[f"selection {recorded_path(path)}"] = _short(sha256(path))
    for source, suffix in (("corpus", ".npy"), ("task", ".parquet")):
        hashes = [h for name, h in record.get("inputs", {}).items() if name.endswith(suffix) and source in content]
        traits |= {f"tokens of {content[source]} for {model}": _short(hash_) for hash_ in hashes}
    paths = assemblies(record.get("inputs", ()), upstream)
    for checkpoint in [record] if record.get("command") == "assemble" else [upstream[path] for path in paths]:
        if states := _states_of(checkpoint, upstream):
            traits[f"calibration states of {model} with seed {content['seed']}"] = _short(states)
        selections = ((name, hash_) for name, hash_ in checkpoint["inputs"].items() if name.endswith(".json"))
        traits |= {f"selection {name}": _short(hash_) for name, hash_ in selections}
    return traits


def assemblies(inputs: Iterable[str], upstream: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Paths of the checkpoints among some inputs as they were assembled: of a refined one that behind it."""
    found = []
    for path in inputs:
        record = upstream.get(path, {})
        if record.get("command") == "refine":
            found += assemblies(record["inputs"], upstream)
        elif record.get("command") == "assemble":
            found.append(path)
    return found


def content_of(path: Path) -> dict[str, str]:
    """The sha256 of each file of an input by its name; ValueError where one is not as its record has it."""
    note = note_of(path)
    record = read_json(note) if note != path and note.suffix == ".json" and note.is_file() else {}
    if path.is_dir():
        folder, digests = path, record.get("files") or {ITEMS_FILE: record.get("sha256")}
    else:
        folder, digests = path.parent, {path.name: record.get("tokens_sha256") or record.get("sha256") or sha256(path)}
    for name, digest in digests.items():
        file = folder / name
        current = sha256(file) if file.is_file() else None
        if current != digest:
            problem = f"has sha256 {current}" if current else "is missing"
            raise ValueError(f"{file} {problem}, but {note} says {digest}: {_remedy(file)}")
    return digests


def _history(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The record of how an input was made, and those of all that led to it."""
    record = dict(read_record(path))
    return record, record.pop("upstream", {})


def _model_of(record: Mapping[str, Any]) -> str | None:
    """The hash of the model that a record is of, or was drawn for."""
    return fingerprint_of(record["files"]) if "family" in record else record.get("model_fingerprint")


def _states_of(record: Mapping[str, Any], upstream: Mapping[str, Any]) -> str | None:
    """The hash of the states that a record is of, or that it was made from."""
    if record.get("command") == "states":
        return fingerprint_of(record["files"]) if "files" in record else record.get("fingerprint")
    if record.get("command") == "refine":
        return next((_states_of(upstream[path], upstream) for path in assemblies(record["inputs"], upstream)), None)
    if record.get("command") not in (*BANK_COMMANDS, "assemble"):
        return None
    states = [upstream[path] for path in record.get("inputs", ()) if upstream.get(path, {}).get("command") == "states"]
    return _states_of(states[0], upstream) if states else None


def _place(checkpoint: Path) -> dict[str, str]:
    """Model and seed in the path of a checkpoint: checkpoints/<model>/<method>/<setting>/<weights>/seed<k>."""
    parts = checkpoint.absolute().parts
    return {"model": parts[-5], "seed": parts[-1].removeprefix("seed")} if len(parts) > 4 else {}


def _remedy(file: Path) -> str:
    for last, remedy in REMEDIES.items():
        if (file.parent / last).is_file():
            return "it is damaged or another's; " + remedy.format(folder=file.parent)
    return "it is damaged or another's; make it again"


def _short(hash_: str) -> str:
    return f"sha256 {hash_[:16]}"
