"""A tiny random model with planted outliers, made on the spot: material for the smoke run and the tests."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from altq.experiment.sources import Made
from altq.runtime import files

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"


def make_model(description: Made, num_blocks: int, folder: str | Path) -> None:
    """Write a LLaMA-architecture model and its tokenizer to `folder`; the same description gives the same bytes.

    A few channels of the residual stream are large in every block (embedding and norm gains), and every projection has
    a few large input channels of its own, by a factor that differs from projection to projection: so activations have
    heavy tails and the kurtosis of the weights varies over the blocks, as in trained models.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    from altq.runtime.tensor_files import write_tensors

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _train_tokenizer(description.vocab_size)
    config = LlamaConfig(
        architectures=["LlamaForCausalLM"],
        hidden_size=description.hidden_size,
        intermediate_size=description.intermediate_size,
        num_hidden_layers=num_blocks,
        num_attention_heads=description.num_heads,
        num_key_value_heads=description.num_kv_heads,
        vocab_size=description.vocab_size,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
        dtype="float32",
    )
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in LlamaForCausalLM(config).state_dict().items()}
    files.require_space(folder, sum(4 * shape.numel() for shape in shapes.values()))
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_tensors(folder / "model.safetensors", _weights(shapes, description), {"format": "pt"})


def _weights(shapes: dict[str, torch.Size], description: Made) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(description.seed)
    outliers = torch.randperm(description.hidden_size, generator=generator)[: _num_outliers(description.hidden_size)]
    weights = {}
    for name in sorted(shapes):
        shape = shapes[name]
        values = torch.randn(shape, generator=generator)
        if len(shape) == 1:  # gain of a norm, [hidden]
            weight = 1 + 0.1 * values
            if "layers" in name:
                weight[outliers] *= 2 + 6 * torch.rand((), generator=generator)
        elif "embed_tokens" in name:  # [vocab, hidden]
            weight = values
            weight[:, outliers] *= 8
        else:  # [out, in]
            weight = values / shape[1] ** 0.5
            channels = torch.randperm(shape[1], generator=generator)[: _num_outliers(shape[1])]
            if "layers" in name:
                weight[:, channels] *= 1 + 7 * torch.rand((), generator=generator)
            if "o_proj" in name or "down_proj" in name:
                # Small, so that no block drowns the outliers of the residual stream.
                weight *= 0.1
        weights[name] = weight.contiguous()
    return weights


def _num_outliers(num_channels: int) -> int:
    return max(1, num_channels // 32)


def _train_tokenizer(vocab_size: int) -> "PreTrainedTokenizerFast":
    """A byte-level BPE tokenizer trained on the help topics of the running Python."""
    from pydoc_data.topics import topics

    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator((topics[title] for title in sorted(topics)), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END_OF_TEXT)
