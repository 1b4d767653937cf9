"""GGUF to safetensors: transformers de-quantizes the weights and rebuilds the tokenizer."""

from pathlib import Path

import numpy as np

from altq.runtime import files


def convert(gguf: str | Path, folder: str | Path) -> None:
    """Write a GGUF model to `folder` as float32 safetensors with config.json and a fast tokenizer.

    The result loads with AutoModelForCausalLM and AutoTokenizer, without network. From here on it is the full-precision
    model. Raises ValueError for a file that transformers cannot read or a family it cannot convert, OSError without
    disk space.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from altq.runtime.tensor_files import write_tensors

    gguf, folder = Path(gguf), Path(folder)
    where = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name, "local_files_only": True}
    try:
        tokenizer = AutoTokenizer.from_pretrained(**where)
        model = AutoModelForCausalLM.from_pretrained(**where, dtype="float32")
    # A cut or foreign file fails wherever the reader happens to trip over it.
    except (ValueError, LookupError, TypeError, NotImplementedError, RuntimeError, OSError) as error:
        raise ValueError(
            f"{gguf} cannot be converted ({type(error).__name__}: {error}); check that it is a complete GGUF file "
            "of a family that transformers converts"
        ) from error
    files.require_space(folder, sum(4 * parameter.numel() for parameter in model.parameters()))
    _clean(model.config, gguf)
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    # model.save_pretrained refuses a model that came from GGUF, though its weights are ordinary float32 by now.
    tied = set(model.all_tied_weights_keys)
    weights = {name: tensor for name, tensor in model.state_dict().items() if name not in tied}
    write_tensors(folder / "model.safetensors", weights, {"format": "pt"})
    tokenizer.save_pretrained(folder)


def _clean(config, gguf: Path) -> None:
    """Make the configuration that of a full-precision model, with its numbers as they were before float32 rounding."""
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    for key, value in config.to_dict().items():
        if isinstance(value, float):
            # GGUF stores 1e-05 as a float32, which reads back as 9.999999747378752e-06.
            setattr(config, key, float(str(np.float32(value))))
    epsilon = getattr(config, "rms_norm_eps", None)
    if epsilon is not None and not 0 < epsilon < 1e-2:
        raise ValueError(f"{gguf} gives the norms an epsilon of {epsilon}, which cannot be right; use another file")
