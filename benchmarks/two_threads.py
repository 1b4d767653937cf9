"""How a quantized linear layer scales from one thread to two: the best of many calls on the clock, by turns.

python benchmarks/two_threads.py
"""

import argparse
import time

import torch

from kernels.cpu import default_variant
from kernels.measure.cpu_layer import random_factors, random_linear

SHAPES = ((4096, 4096, 1), (4096, 4096, 16), (4096, 4096, 64), (4096, 4096, 256), (576, 1536, 256))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", default=[default_variant()])
    parser.add_argument("--seconds", type=float, default=2.0, help="for each shape and number of threads")
    arguments = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    for variant in arguments.variants:
        for d_out, d_in, tokens in SHAPES:
            left, right = random_factors(d_in, generator)
            layer = random_linear(d_out, d_in, generator, left=left, right=right, variant=variant)
            x = torch.randn(tokens, d_in, generator=generator)
            best = {1: float("inf"), 2: float("inf")}
            for turn in range(20):
                threads = 1 + turn % 2
                torch.set_num_threads(threads)
                end = time.perf_counter() + arguments.seconds / 10
                while (start := time.perf_counter()) < end:
                    layer(x)
                    best[threads] = min(best[threads], time.perf_counter() - start)
            print(
                f"{variant:10} {d_out} x {d_in}, {tokens:3} tokens: {1e3 * best[1]:.3f} ms, with two threads "
                f"{1e3 * best[2]:.3f} ms, x {best[1] / best[2]:.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
