"""The command that generates text."""

import argparse
import sys
from pathlib import Path

import torch
from transformers import BatchEncoding
from transformers.utils.logging import disable_progress_bar

from altq.checkpoint.half_embedding import halve_embedding
from altq.checkpoint.packed_model import kernels_of, weight_memory
from altq.commands.device import add_device
from altq.evaluation.generation import Sampling, generate_text, load_generator
from altq.models.tokenizer import load_tokenizer
from altq.runtime.gpu import open_device


def generate_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--folder", type=Path, required=True, help="checkpoint folder or model folder")
    parser.add_argument("--prompt", required=True, metavar="TEXT", help="what the text starts with")
    parser.add_argument("--max-new-tokens", type=int, default=128, metavar="N", help="how many to make at most (128)")
    parser.add_argument("--chat", action="store_true", help="the prompt is a user's turn in the model's chat template")
    parser.add_argument("--temperature", type=float, metavar="T", help="draw tokens, from p^(1/T); 0: likeliest")
    parser.add_argument("--top-k", type=int, metavar="N", help="draw among the N likeliest tokens")
    parser.add_argument(
        "--top-p", type=float, metavar="P", help="draw among the likeliest that have P of the probability"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the drawing (0)")
    add_device(parser)
    parser.add_argument(
        "--embedding", choices=("float32", "bfloat16"), default="float32",
        help="how embedding and head are kept: bfloat16 halves their memory and rounds them (float32)",
    )  # fmt: skip


def generate(arguments: argparse.Namespace) -> None:
    """Generate text from a quantized checkpoint on packed kernels, the CPU's or the GPU's, or from a full-precision model.

    Reads a checkpoint folder (or a model folder, with transformers' own linear layers; a checkpoint with weights or
    activations in full precision is computed without the kernels). Writes the text as it comes
    and, on the error stream at the end, tokens per second and the memory of the weights. How tokens are chosen is as
    the folder's generation_config.json says (without one, the likeliest each time), unless --temperature, --top-k or
    --top-p say otherwise; drawn ones are the same for the same --seed. Keys and values go through the quantizer of the
    checkpoint's setting and are kept as floats.

      altq generate --folder results/checkpoints/smollm2/adaptive/W4A4K4V4/gptq/seed0 --prompt 'The city of Paris is' \\
          --max-new-tokens 64
    """
    if arguments.max_new_tokens < 1:
        raise ValueError(f"--max-new-tokens {arguments.max_new_tokens} makes no text; give 1 or more")
    sampling = Sampling(arguments.temperature, arguments.top_k, arguments.top_p)
    disable_progress_bar()
    device = open_device(arguments.device, arguments.gpu_memory)
    if arguments.embedding == "bfloat16" and device.type != "cpu":
        raise ValueError("--embedding bfloat16 needs the CPU's kernels; leave it out, or give --device cpu")
    model = load_generator(arguments.folder, device)
    if arguments.embedding == "bfloat16":
        halve_embedding(model)
    tokenizer = load_tokenizer(arguments.folder)
    if not arguments.chat:
        prompt = tokenizer(arguments.prompt)["input_ids"]
    elif tokenizer.chat_template:
        turns = [{"role": "user", "content": arguments.prompt}]
        encoded = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=True)
        assert isinstance(encoded, BatchEncoding), "what return_dict asks for"
        prompt = encoded["input_ids"]
    else:
        raise ValueError(f"the tokenizer of {arguments.folder} has no chat template; leave --chat out")
    torch.manual_seed(arguments.seed)
    speed = generate_text(model, tokenizer, prompt=prompt, max_new_tokens=arguments.max_new_tokens, sampling=sampling)
    memory = weight_memory(model)
    print(
        f"{speed.prompt_tokens} tokens of the prompt in {speed.prompt_seconds:.2f} s, then "
        f"{speed.decoded_tokens / speed.decode_seconds if speed.decoded_tokens else 0:.1f} tokens per second "
        f"({kernels_of(model)}, {device.type}, {torch.get_num_threads()} threads)\n"
        f"weights: {memory.projections / 1e6:.1f} MB of projections (float32: {memory.projections_in_float32 / 1e6:.1f}), "
        f"{memory.rest / 1e6:.1f} MB of embedding, head and norms",
        file=sys.stderr,
    )
