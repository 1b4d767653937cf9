"""Decoding on packed weights against transformers' `generate` in float32, by turns: milliseconds a token, and memory.

python benchmarks/packed_decoding.py --checkpoint results/checkpoints/smollm2/adaptive/W4A4K4V4/gptq/seed0 \\
      --model results/models/smollm2 --threads 1
"""

import argparse
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from altq.checkpoint.half_embedding import halve_embedding
from altq.checkpoint.packed_model import load_packed_model, weight_memory
from altq.runtime.cores import bounded_threads
from kernels.measure.timing import quartiles

PROMPT = list(range(100, 116))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1, help="1: timed in processor time")
    arguments = parser.parse_args()
    torch.set_num_threads(bounded_threads(arguments.threads))
    clock = time.thread_time if arguments.threads == 1 else time.perf_counter

    full = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32).eval()
    packed, halved = load_packed_model(arguments.checkpoint), load_packed_model(arguments.checkpoint)
    halve_embedding(halved)

    def decode(model, count: int) -> None:
        tokens = torch.tensor([PROMPT])
        with torch.inference_mode():
            model.generate(
                tokens,
                attention_mask=torch.ones_like(tokens),
                max_new_tokens=count,
                min_new_tokens=count,
                do_sample=False,
            )

    runs = {
        "transformers": lambda count: decode(full, count),
        "packed": lambda count: decode(packed, count),
        "packed, bfloat16 embedding": lambda count: decode(halved, count),
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(arguments.rounds):
        for name, run in runs.items():
            run(1)
            marks = [clock()]
            for count in (1, 1 + arguments.tokens):
                run(count)
                marks.append(clock())
            # The prompt's pass is in both; the difference is the tokens after the first.
            times[name].append((marks[2] - 2 * marks[1] + marks[0]) / arguments.tokens)
    for name, own in times.items():
        ratios = [theirs / seconds for theirs, seconds in zip(times["transformers"], own, strict=True)]
        (low, median, high), (ratio_low, ratio, ratio_high) = quartiles(own), quartiles(ratios)
        print(
            f"{name:28} {1e3 * median:6.1f} ms a token ({1e3 * low:.1f} to {1e3 * high:.1f})  "
            f"x {ratio:.2f} ({ratio_low:.2f} to {ratio_high:.2f})"
        )
    for name, model in (("packed", packed), ("packed, bfloat16 embedding", halved)):
        print(f"{name:28} {weight_memory(model)}")


if __name__ == "__main__":
    main()
