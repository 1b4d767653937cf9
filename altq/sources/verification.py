"""Is a model folder what the configuration says, complete and readable? Asked once, after the fetch."""

import json
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from altq.models.family import family_of
from altq.runtime import files


def check_config(folder: Path, num_blocks: int) -> dict[str, Any]:
    """The config.json of a model folder; ValueError unless its family is known and it has `num_blocks` blocks."""
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"{folder} holds no config.json; it is not a model folder as transformers saves it")
    try:
        config = files.read_json(path)
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}); fetch the model again") from error
    family_of(config.get("model_type", ""))
    seen = config.get("num_hidden_layers")
    if seen != num_blocks:
        raise ValueError(
            f"the model has {seen} blocks ({path}), but the configuration says num_blocks: {num_blocks}; correct it"
        )
    if config.get("quantization_config"):
        raise ValueError(f"{path} has quantization_config: the model is quantized already; give the original")
    return config


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder: those of its index, or the only one. ValueError if one is missing."""
    index = folder / "model.safetensors.index.json"
    names = sorted(set(files.read_json(index)["weight_map"].values())) if index.is_file() else ["model.safetensors"]
    for name in names:
        if not (folder / name).is_file():
            raise ValueError(f"{folder / name} is missing; fetch the model again (only safetensors are read)")
    return [folder / name for name in names]


def check_tensors(folder: Path) -> int:
    """The number of weights; ValueError unless every tensor the model needs is there, whole, finite and of its shape.

    Names and shapes come from transformers' own model of config.json, built on the meta device. One tensor is read at
    a time. The error names the file and the tensor.
    """
    needed = _expected_shapes(folder)
    num_weights = 0
    for path in weight_files(folder):
        with _opened(path) as file:
            # What the model does not need is left alone: older checkpoints carry rotary frequencies.
            for name in sorted(needed.keys() & set(file.keys())):
                num_weights += _check_tensor(path, name, file.get_tensor(name), needed.pop(name))
    if needed:
        some = ", ".join(sorted(needed)[:3])
        raise ValueError(f"{folder} lacks {len(needed)} tensors of the model, among them {some}; fetch it again")
    return num_weights


def _check_tensor(path: Path, name: str, tensor, shape: list[int]) -> int:
    if list(tensor.shape) != shape:
        seen = list(tensor.shape)
        raise ValueError(f"{path}: tensor {name} has shape {seen}, but config.json makes it {shape}; correct either")
    if not tensor.is_floating_point():
        raise ValueError(f"{path}: tensor {name} is {tensor.dtype}, not floating point; give the full-precision model")
    if not tensor.isfinite().all():
        raise ValueError(f"{path}: tensor {name} holds NaN or infinity; fetch the model again or use another one")
    return tensor.numel()


def check_tokenizer(folder: Path) -> None:
    """ValueError unless `folder` holds a fast tokenizer that transformers loads without network."""
    from transformers import AutoTokenizer

    remedy = "add the tokenizer of the model as AutoTokenizer's save_pretrained writes it"
    if not (folder / "tokenizer.json").is_file():
        raise ValueError(f"{folder} holds no tokenizer.json; {remedy}")
    try:
        AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the tokenizers library raises bare Exception
        raise ValueError(f"the tokenizer in {folder} cannot be loaded ({error}); {remedy}") from error


def _expected_shapes(folder: Path) -> dict[str, list[int]]:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    tied = set(model.all_tied_weights_keys)
    return {name: list(tensor.shape) for name, tensor in model.state_dict().items() if name not in tied}


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise ValueError(
            f"{path} is corrupt or cut ({error}; {_first_cut_tensor(path)}); delete it and fetch the model again"
        ) from error


def _first_cut_tensor(path: Path) -> str:
    # safetensors says that a file is broken, not where: its header (8 bytes of length, then JSON) tells which tensor.
    size = path.stat().st_size
    with open(path, "rb") as file:
        try:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(length, size)))
            ends = {name: entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"}
        except (struct.error, ValueError, TypeError, LookupError, AttributeError):
            return "its header is not readable, so none of its tensors is"
    cut = [name for name in sorted(ends, key=ends.get) if 8 + length + ends[name] > size]
    return f"the first tensor that is not whole is {cut[0]}" if cut else "its header disagrees with its data"
