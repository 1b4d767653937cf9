"""The first look at a machine with a GPU, in one file: tests of the kernels, a block, a model, Table 5 (`make gpu`).

Each section is run whatever became of the others; the exit code is 1 where one failed. Without a GPU nothing is run and
the exit code is 1, unless --device cpu and --small ask for a rehearsal.

  python benchmarks/gpu.py --output results/gpu.md
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from altq.calibration.by_unit import calibrate_bank
from altq.calibration.fitting import Fitting
from altq.calibration.recording import record_states
from altq.calibration.subject import Subject
from altq.checkpoint.assembly import assemble
from altq.checkpoint.quantized_model import open_model
from altq.checkpoint.scheme import Scheme
from altq.evaluation.perplexity import window_losses
from altq.experiment.recipe import Recipe
from altq.experiment.rounding import RoundingOptions
from altq.experiment.setting import Setting
from altq.experiment.shape import Shape, Sizes
from altq.resources.block_work import calibration
from altq.resources.checks import to_text
from altq.resources.gpu_checks import check_gpus
from altq.resources.machine import BYTES_OF_AN_ELEMENT, H100
from altq.runtime.files import atomic
from altq.runtime.gpu import claim_gpu, open_device
from altq.runtime.resume import Scratch
from altq.selection.selection import Decision, Selection

PROJECT = Path(__file__).resolve().parents[1]
STEPS = 20
SETTING = Setting(4, 4, 4, 4)


@dataclass(frozen=True)
class Rehearsal:
    """The sizes of a run: of the block, its windows, and which tests and experiment are run."""

    shape: Shape
    windows: int
    length: int
    tests: tuple[str, ...]
    config: str
    perplexity: str


LARGE = Rehearsal(
    Shape(hidden_size=4096, intermediate_size=11008, num_heads=32, num_kv_heads=32, vocab_size=32000),
    windows=16, length=2048, tests=("tests/kernels/triton", "tests/kernels/measure/test_gpu_cases.py"), config="config.yaml",
    perplexity="results/perplexity/smollm2/affine/W4A4K4V4/gptq/seed0/pydoc.json",
)  # fmt: skip
SMALL = Rehearsal(
    Shape(hidden_size=64, intermediate_size=96, num_heads=4, num_kv_heads=4, vocab_size=64),
    windows=4, length=16, tests=("tests/kernels/triton/test_launch.py",), config="", perplexity="",
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: a rehearsal (cuda)")
    parser.add_argument("--small", action="store_true", help="a block of 64 channels, and neither SmolLM2 nor Table 5")
    parser.add_argument("--output", type=Path, default=Path("results/gpu.md"), help="report to write (results/gpu.md)")
    arguments = parser.parse_args()
    try:
        claim_gpu(arguments.device)
        device = open_device(arguments.device)
    except ValueError as problem:
        print(f"make gpu: {problem}", file=sys.stderr)
        return 1
    run = SMALL if arguments.small else LARGE
    sections: dict[str, Callable[[], str]] = {
        "Machine": lambda: f"    {to_text(list(check_gpus()))}".replace("\n", "\n    "),
        "Tests of the kernels": lambda: kernel_tests(run),
        "compute-sanitizer": lambda: sanitizer(run),
        f"A block of {run.shape.hidden_size} channels": lambda: block(run, device),
    }
    if not arguments.small:
        sections["SmolLM2, this device against the CPU"] = lambda: smollm2(run)
        sections["Table 5"] = table5
    lines, failed = [f"# altq on {name_of(device)}", ""], []
    for title, section in sections.items():
        began = time.monotonic()
        print(f"{title} ...", file=sys.stderr, flush=True)
        try:
            text = section()
        except Exception:  # one section that fails is to leave the others
            failed.append(title)
            text = f"**Failed.**\n\n    {traceback.format_exc().strip()}".replace("\n", "\n    ")
        lines += [f"## {title}", "", text.rstrip(), "", f"{time.monotonic() - began:.0f} s.", ""]
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    with atomic(arguments.output) as partial:
        partial.write_text("\n".join(lines), encoding="utf-8")
    print(f"{arguments.output}; {'failed: ' + ', '.join(failed) if failed else 'all sections ran'}", file=sys.stderr)
    return 1 if failed else 0


def name_of(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU, a rehearsal"


def call(*command: str | Path) -> str:
    """What a command prints; RuntimeError with its last lines where it fails."""
    result = subprocess.run(list(map(str, command)), cwd=PROJECT, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(
            f"{' '.join(map(str, command))} exits with {result.returncode}:\n{(result.stdout + result.stderr)[-3000:]}"
        )
    return result.stdout


def kernel_tests(run: Rehearsal) -> str:
    return call(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *run.tests).splitlines()[-1]


def sanitizer(run: Rehearsal) -> str:
    """memcheck and racecheck of a few tests, where the tool is."""
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        return "Not on this machine."
    tests = ["tests/kernels/triton/test_linear.py", "tests/kernels/triton/test_attention.py", "-k", "splits or shared"]
    lines = []
    for check in ("memcheck", "racecheck"):
        pytest = (sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests)
        output = call(tool, "--tool", check, "--error-exitcode", "3", *pytest)
        lines.append(f"{check}: {output.splitlines()[-1]}")
    return "\n\n".join(lines)


def block(run: Rehearsal, device: torch.device) -> str:
    """States, steps, GPTQ and perplexity of a model of one random block: seconds, peak memory and waits of each."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        model, generator = random_model(run.shape, folder / "model"), np.random.default_rng(0)
        tokens = generator.integers(0, run.shape.vocab_size, (run.windows, run.length), dtype=np.int32)
        states, measured = folder / "states", {}
        measured["states"] = measure(
            lambda: record_states(model, tokens, loss="mse", folder=states, fingerprint="gpu", device=device), device
        )

        def fit(steps: int) -> None:
            fitting = Fitting(SETTING, kind="affine", seed=0, recipe=recipe_of(steps))
            calibrate_bank(
                Subject.open(model, states, device=device), fitting, folder / f"bank{steps}", fingerprint="gpu"
            )

        fit(1)  # so that neither of the next two loads libraries or compiles
        measured["start of a bank"] = measure(lambda: fit(0), device)
        measured[f"the same and {STEPS} steps"] = measure(lambda: fit(STEPS), device)
        decisions = tuple(Decision(sublayer, "affine", "for a measurement") for sublayer in range(2))
        rounding = RoundingOptions(weights="gptq", windows=run.windows)
        banks = {"affine": folder / f"bank{STEPS}"}
        scheme = Scheme(Selection("gpu", "random", 1, decisions), setting=SETTING, rounding=rounding, banks=banks)
        checkpoint, losses = folder / "checkpoint", []
        measured["GPTQ"] = measure(
            lambda: assemble(model, states, scheme, checkpoint, fingerprint="gpu", device=device), device
        )
        scratch = Scratch(folder / "scratch", "gpu", device.type)
        measured["perplexity"] = measure(
            lambda: losses.extend(window_losses(open_model(checkpoint, device), tokens, scratch)), device
        )
    if not np.isfinite(losses).all():
        raise ValueError(f"losses of the windows are not finite: {losses}")
    rows = [f"| {stage} | {m.seconds:.2f} | {m.peak / 1e9:.2f} | {m.waits} |" for stage, m in measured.items()]
    start, stepped = measured["start of a bank"], measured[f"the same and {STEPS} steps"]
    seconds, waits = (stepped.seconds - start.seconds) / STEPS, (stepped.waits - start.waits) / STEPS
    return "\n".join(
        [
            f"{run.windows} windows of {run.length} tokens, {SETTING}, affine; waits as torch's sync debug mode counts them.",
            "",
            "| stage | s | peak of tensors, GB | waits |",
            "|---|---|---|---|",
            *rows,
            "",
            f"A step of both halves: {1e3 * seconds:.1f} ms, {waits:.1f} waits. {share_of_roofline(run, seconds, device)}",
        ]
    )


def share_of_roofline(run: Rehearsal, seconds: float, device: torch.device) -> str:
    """The least time of a step by an H100's data sheet, and the share of it that was reached where this is one."""
    sizes = Sizes(run.shape, 1, "")
    work = calibration(sizes, recipe_of(1), run.windows, run.length)
    products, moved = work.products / H100["products"], BYTES_OF_AN_ELEMENT * work.elements / H100["bandwidth"]
    parts = f"products {1e3 * products:.3g}, memory {1e3 * moved:.3g}"
    least = f"An H100's data sheet allows {1e3 * max(products, moved):.3g} ms ({parts})"
    if device.type != "cuda" or "H100" not in name_of(device) or seconds <= 0:
        return f"{least}."
    return f"{least}: {max(products, moved) / seconds:.0%} of the roofline."


def recipe_of(steps: int) -> Recipe:
    return Recipe(
        unit="sublayer", start="random", scaling="none", clip_search=False, fitted=["attention", "ffn"], steps=steps,
        windows_per_step=4,
    )  # fmt: skip


def random_model(shape: Shape, folder: Path) -> Path:
    """A LLaMA model of one block with random weights."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=shape.hidden_size, intermediate_size=shape.intermediate_size, vocab_size=shape.vocab_size,
        num_attention_heads=shape.num_heads, num_key_value_heads=shape.num_kv_heads, num_hidden_layers=1,
        bos_token_id=0, eos_token_id=1, pad_token_id=None,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@dataclass(frozen=True)
class Measured:
    """Seconds on the clock, peak bytes of tensors on the GPU, and how often the host waited for it."""

    seconds: float
    peak: float
    waits: int


def measure(function: Callable[[], object], device: torch.device) -> Measured:
    if device.type != "cuda":
        began = time.monotonic()
        function()
        return Measured(time.monotonic() - began, 0.0, 0)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    torch.cuda.set_sync_debug_mode("warn")
    began = time.monotonic()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            function()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()
    waits = sum("synchroniz" in str(warning.message) for warning in caught)
    return Measured(time.monotonic() - began, torch.cuda.max_memory_allocated(), waits)


def smollm2(run: Rehearsal) -> str:
    """A bank, a checkpoint and its perplexity, by the workflow on this GPU and on the CPU."""
    values = {}
    for place, options in (("gpu", ["--resources", "gpu=1"]), ("cpu", [])):
        folder = PROJECT / "runs" / f"gpu-{place}"
        command = ("snakemake", "--cores", "all", "--configfile", run.config, "--directory", folder, *options)
        began = time.monotonic()
        call(sys.executable, "-m", *command, "--", run.perplexity)
        result = json.loads((folder / run.perplexity).read_text())
        values[place] = result["perplexity"], time.monotonic() - began
    rows = [f"| {place} | {value:.4f} | {seconds:.0f} |" for place, (value, seconds) in values.items()]
    return "\n".join(["| | perplexity | s, all stages |", "|---|---|---|", *rows])


def table5() -> str:
    """The GPU's rows of Table 5: medians in ms, and ratios to float16 as published."""
    path = PROJECT / "results" / "kernels" / "gpu.csv"
    command = (sys.executable, "-m", "altq", "benchmark", "--device", "gpu", "--rounds", "5", "--output", path)
    return "\n".join(f"    {line}" for line in call(*command).splitlines())


if __name__ == "__main__":
    sys.exit(main())
