"""Peak memory of the stages that stream a model, for made LLaMA models of 1, 4 and 16 blocks (docs/scaling.md).

python benchmarks/memory.py --directory /tmp/memory
"""

import argparse
import subprocess
import sys
from pathlib import Path

import yaml

from altq.runtime.files import read_json

PROJECT = Path(__file__).resolve().parents[1]
SETTING = "W4A4K4V4"
WINDOWS, LENGTH, WINDOWS_AT_ONCE = 16, 256, 4
MEGABYTE = 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, required=True, help="where to work; what is made there is kept")
    parser.add_argument("--blocks", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--hidden-size", type=int, default=2048)
    parser.add_argument("--intermediate-size", type=int, default=5632)
    arguments = parser.parse_args()
    hidden, intermediate, blocks = arguments.hidden_size, arguments.intermediate_size, arguments.blocks
    _run(arguments.directory, hidden, intermediate, blocks)

    weights = 4 * (2.25 * hidden**2 + 3 * hidden * intermediate)
    tokens = 4 * WINDOWS_AT_ONCE * LENGTH
    activations = tokens * (8 * hidden + 4 * intermediate) + 2 * 4 * WINDOWS * LENGTH * hidden
    print(f"one block in float32 {weights / MEGABYTE:.0f} MB, activations of a step {activations / MEGABYTE:.0f} MB")
    print(f"bound, with gradients of the weights: {(1.3 * (2 * weights + activations) + 1e9) / MEGABYTE:.0f} MB")
    print(f"{'blocks':11}" + "".join(f"{number:>8}" for number in blocks) + "  largest / smallest")
    for stage in ("states", "calibrate", "assemble", "perplexity"):
        peaks = [_peak(arguments.directory / "results", stage, f"blocks{number}") / MEGABYTE for number in blocks]
        print(f"{stage:11}" + "".join(f"{peak:8.0f}" for peak in peaks) + f"  {max(peaks) / min(peaks):.2f}")


def _run(directory: Path, hidden: int, intermediate: int, blocks: list[int]) -> None:
    heads = hidden // 64
    made = {"hidden_size": hidden, "intermediate_size": intermediate, "vocab_size": 512, "seed": 0}
    made |= {"num_heads": heads, "num_kv_heads": heads // 8}
    config = {
        "models": {f"blocks{number}": {"made": made, "num_blocks": number} for number in blocks},
        "corpora": {"pydoc": {"module": "pydoc_data.topics"}},
        "settings": [SETTING],
        "methods": ["full", "affine"],
        "seeds": [0],
        "calibration": {"corpus": "pydoc", "num_windows": WINDOWS, "window_length": LENGTH},
        "recipe": {"steps": 2, "windows_per_step": WINDOWS_AT_ONCE},
        "evaluation": {"num_windows": WINDOWS, "window_length": LENGTH},
    }
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / "memory.yaml"
    file.write_text(yaml.safe_dump(config))
    targets = [_evaluated(f"blocks{number}") for number in blocks]
    words = ["--snakefile", PROJECT / "Snakefile", "--configfile", file, "--directory", directory, "--cores", "all"]
    subprocess.run([sys.executable, "-m", "snakemake", *map(str, words), *targets], check=True, cwd=PROJECT)


def _evaluated(model: str) -> str:
    return f"results/perplexity/{model}/affine/{SETTING}/gptq/seed0/pydoc.json"


def _peak(results: Path, stage: str, model: str) -> int:
    """Bytes, as the results of a stage say of themselves."""
    if stage == "perplexity":
        return read_json(results.parent / _evaluated(model))["provenance"]["peak_memory"]
    folders = {
        "states": f"states/{model}/seed0",
        "calibrate": f"bank/{model}/{SETTING}/seed0/affine",
        "assemble": f"checkpoints/{model}/affine/{SETTING}/gptq/seed0",
    }
    return read_json(results / folders[stage] / "provenance.json")["peak_memory"]


if __name__ == "__main__":
    main()
