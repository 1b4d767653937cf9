"""The bank: every sublayer of a model calibrated once for one setting, each in its own file.

An entry is a safetensors file: the tensors of its transforms and clipping factors, and in its metadata their structure,
what the fit reached, and a fingerprint of all that went into it. A bank that was fitted end to end has a rotation of
the residual stream beside its entries. index.json, written last, says what the bank was made from.
"""

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from altq.calibration.sublayer import QuantizedSublayer
from altq.experiment.setting import Setting
from altq.models.sublayer import Sublayer
from altq.quantizers.quantizer import Quantizers
from altq.runtime.consistency import require_consistency
from altq.runtime.documents import Record, read_described
from altq.runtime.files import write_json
from altq.runtime.tensor_files import write_tensors
from altq.transforms.storage import restore, store
from altq.transforms.transform import Transform

log = logging.getLogger(__name__)

INDEX_FILE = "index.json"
RESIDUAL_FILE = "residual.safetensors"


@dataclass(frozen=True)
class Entry:
    """The transforms of one sublayer, its clipping factors, and its quantizers' options: see `Quantizers.at`."""

    transforms: dict[str, Transform]
    clips: dict[str, Tensor]
    signed: bool
    asymmetric: bool
    zero_point: bool = False

    def restore(self, sublayer: Sublayer, setting: Setting) -> QuantizedSublayer:
        """A full-precision sublayer, whose linears are replaced, quantized with these."""
        quantizers = Quantizers.at(setting, signed=self.signed, asymmetric=self.asymmetric, zero_point=self.zero_point)
        quantized = QuantizedSublayer(sublayer, self.transforms, quantizers)
        quantized.load_clipping_factors(self.clips)
        return quantized


def entry_path(folder: str | Path, sublayer: int) -> Path:
    """The file of a sublayer's entry in the folder of a bank."""
    return Path(folder) / f"sublayer_{sublayer:03d}.safetensors"


def write_index(folder: str | Path, content: dict[str, Any]) -> None:
    """Write the index of a bank, which says that it is complete: setting, kind, seed, recipe and entries."""
    write_json(Path(folder) / INDEX_FILE, content)


class _Index(Record):
    """The keys of an index that are read."""

    setting: str
    kind: str


def read_index(folder: str | Path) -> dict[str, Any]:
    """Read the index of a bank: its setting, kind, seed, recipe and entries; ValueError for one without the first two."""
    return read_described(Path(folder) / INDEX_FILE, _Index, "calibrate the bank again").model_dump(exclude_unset=True)


def banks_by_kind(folders: Iterable[Path]) -> dict[str, Path]:
    """Read which kind each folder of a bank holds: kind -> folder; ValueError where two hold the same."""
    banks: dict[str, Path] = {}
    for folder in folders:
        kind = read_index(folder)["kind"]
        if kind in banks:
            raise ValueError(f"banks {banks[kind]} and {folder} both hold {kind}; give one of them")
        banks[kind] = folder
    return banks


def check_banks(banks: Mapping[str, str | Path], setting: Setting) -> None:
    """ValueError unless each bank, by the kind that it is given as, is of that kind and setting."""
    for kind, bank in banks.items():
        index = read_index(bank)
        content = {"kind": index["kind"], "setting": index["setting"]}
        require_consistency({"what is asked for": {"kind": kind, "setting": str(setting)}, bank: content})


def write_residual(folder: str | Path, rotation: Tensor) -> None:
    """Write the rotation [hidden, hidden] of the residual stream."""
    write_tensors(Path(folder) / RESIDUAL_FILE, {"rotation": rotation.detach()})


def read_residual(folder: str | Path) -> Tensor | None:
    """The rotation of the residual stream that a bank's entries stand in, None for none."""
    path = Path(folder) / RESIDUAL_FILE
    return load_file(path)["rotation"] if path.is_file() else None


def write_entry(path: Path, quantized: QuantizedSublayer, record: dict[str, Any]) -> None:
    """Write the entry of one sublayer; record: of its fit, with its fingerprint."""
    tensors = {f"clip.{name}": clip for name, clip in quantized.clipping_factors().items()}
    structure = {}
    for site, transform in quantized.transforms.items():
        structure[site], parts = store(transform)
        tensors |= {f"transform.{site}.{name}": tensor for name, tensor in parts.items()}
    # One key: safetensors writes several in any order, and the same entry should have the same bytes.
    described = {
        "structure": structure,
        "options": quantized.quantizers.options,
        "record": record,
        "digest": _digest(tensors),
    }
    write_tensors(path, tensors, {"entry": json.dumps(described, sort_keys=True)})


def finished_record(path: Path, fingerprint: str) -> dict[str, Any] | None:
    """Read the record of a whole entry of this fingerprint; None without one, with a warning where it is damaged."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            described = json.loads(file.metadata()["entry"])
            record = described["record"]
            if record.get("fingerprint") != fingerprint:
                return None
            if _digest({name: file.get_tensor(name) for name in file.keys()}) != described["digest"]:
                raise ValueError("its tensors are not those that were written")
    except (SafetensorError, ValueError, LookupError, TypeError, AttributeError) as error:
        log.warning("%s cannot be read (%s): it is calibrated anew", path, error)
        return None
    return record


def _digest(tensors: dict[str, Tensor]) -> str:
    """Hash tensors and their names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}\n".encode())
        digest.update(tensors[name].detach().contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()


def read_entry(folder: str | Path, sublayer: int) -> Entry:
    """Read an entry of a bank; ValueError where it cannot be read or is of another sublayer."""
    path = entry_path(folder, sublayer)
    try:
        with safe_open(path, framework="pt") as file:
            described = json.loads(file.metadata()["entry"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"bank entry {path} cannot be read ({error}); delete {path.with_name(INDEX_FILE)} and run again: "
            "this entry alone is calibrated anew"
        ) from error
    if (place := described["record"]["sublayer"]) != sublayer:
        raise ValueError(
            f"bank entry {path} is of sublayer {place}, not of {sublayer}; delete {path.with_name(INDEX_FILE)} and run "
            "again: this entry alone is calibrated anew"
        )
    transforms = {}
    for site, description in described["structure"].items():
        prefix = f"transform.{site}."
        parts = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
        transforms[site] = restore(description, parts)
    clips = {n.removeprefix("clip."): t for n, t in tensors.items() if n.startswith("clip.")}
    return Entry(transforms, clips, **described["options"])
