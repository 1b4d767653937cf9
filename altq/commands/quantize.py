"""The command that quantizes a model: it makes a configuration, and runs the workflow on it."""

import argparse
import math
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from altq.checkpoint.publication import publish
from altq.commands.command import add_output, positive
from altq.commands.outputs import refuse_overwriting
from altq.evaluation.before_after import Measured, side_by_side, weight_bytes
from altq.experiment.experiment import Experiment
from altq.experiment.methods import METHODS
from altq.experiment.of_model import experiment_of_model
from altq.experiment.setting import FULL, FULL_PRECISION
from altq.experiment.sources import CorpusDescription, ModelDescription
from altq.experiment.study import checked_methods, checked_settings
from altq.resources.dry_run import list_jobs
from altq.resources.needs import Needs
from altq.resources.plan import plan_jobs, to_text
from altq.resources.shapes import sizes_of_models
from altq.runtime.cores import usable_cores
from altq.runtime.documents import read_yaml
from altq.runtime.files import require_space, write_text
from altq.runtime.workflow import CONFIGURATION, locked, run_snakemake, snakemake_command, workflow_folder
from altq.sources.address import describe_model, name_of
from altq.sources.text_file import describe_text

TARGET = "cards"
BY_LINES = ("--logger", "altq")


def quantize_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="model folder, .gguf file, or hub model as org/name@revision")
    bits = parser.add_mutually_exclusive_group(required=True)
    bits.add_argument("--setting", metavar="WaAbKcVd", help="bit widths, e.g. W4A4K4V4")
    bits.add_argument("--settings", metavar="S,T,...", help="several, each in a folder of its own under --output")
    parser.add_argument("--method", default="adaptive", metavar="NAME", help=f"among {', '.join(METHODS)} (adaptive)")
    parser.add_argument(
        "--text", type=Path, metavar="FILE",
        help="text to calibrate and judge on: .txt, .json, .jsonl, .parquet, .csv; chats in `messages` (encyclopedia)",
    )  # fmt: skip
    parser.add_argument("--text-field", metavar="NAME", help="field of its rows that holds the text (text)")
    parser.add_argument("--windows", type=positive, metavar="N", help="windows of text to calibrate on (16)")
    parser.add_argument("--window-length", type=positive, metavar="N", help="tokens in each (512, or the model's most)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the windows and random starts (0)")
    parser.add_argument("--cores", type=positive, default=usable_cores(), metavar="N", help="cores (default: here)")
    parser.add_argument("--dry-run", action="store_true", help="print configuration and plan, and do nothing")
    add_output(parser, "checkpoint folder")


def quantize(arguments: argparse.Namespace) -> None:
    """Quantize a model: from a folder, file or hub name to a checkpoint that can be used.

    Reads a model and text. Writes the checkpoint to --output, with its card, and beside it, in OUTPUT.run, what the
    workflow makes on the way, with the configuration that it follows: a file that can be edited and run again with
    Snakemake. Prints a plan of minutes, memory and disk before it begins, and perplexity before and after on held-out
    text at the end. A run that was stopped (Ctrl-C, SIGTERM, kill) goes on when the same command is given again.

      altq quantize /data/my-llama --setting W4A4K4V4 --output my-llama-W4A4
      altq quantize my-llama.gguf --settings W4A4K4V4,W3A3K3V3 --text chats.jsonl --output my-llama-quantized
      altq quantize org/name@main --setting W4A16K16V16 --method balance --output name-W4 --dry-run
    """
    output, run = arguments.output, _run_folder(arguments.output)
    content = _experiment(arguments)
    described = (part for kind in ("models", "corpora") for part in content[kind].values())
    refuse_overwriting([output, run], [Path(part["path"]) for part in described if "path" in part])
    _refuse_other_run(output, run, content)
    if arguments.dry_run:
        print(_to_yaml(content))
    with TemporaryDirectory() as folder:
        write_text(Path(folder) / CONFIGURATION, _to_yaml(content))
        num_bytes = _print_plan(Path(folder) / CONFIGURATION, run if run.is_dir() else Path(folder), arguments.cores)
    if arguments.dry_run:
        return
    require_space(run.parent, math.ceil(num_bytes))
    run.mkdir(exist_ok=True)
    with locked(run) as lock:
        configuration, resources = run / CONFIGURATION, {"mem_mb": int(_memory() / 1e6)}
        command = snakemake_command(configuration, run, cores=arguments.cores, resources=resources)
        by_hand = shlex.join([*command, TARGET])
        write_text(
            configuration, f"# Made by altq quantize. Edit it, and run it again with\n# {by_hand}\n{_to_yaml(content)}"
        )
        logs = run / "results" / "logs"
        print(f"\n{configuration} has all options; its head has the command that runs it again.")
        print(f"What jobs say is in {logs}.\n", flush=True)
        if run_snakemake([*command, *BY_LINES, "--", TARGET], lock, logs / "quantize.txt"):
            raise ValueError(
                f"the run was not finished: what stood in its way is said above, and in {logs}; what is done is kept, and "
                "the same command goes on from there"
            )
        checkpoints = {setting: _checkpoint(content, run, setting) for setting in content["settings"]}
        folders = {setting: output / setting if arguments.settings else output for setting in checkpoints}
        for setting, checkpoint in checkpoints.items():
            publish(checkpoint, folders[setting])
    print(f"\nOn held-out text of {content['calibration']['corpus']}, with 95 % intervals:\n{_summary(content, run)}\n")
    print(_use_of(next(iter(folders.values()))))


def _run_folder(output: Path) -> Path:
    """Where the workflow works: beside the checkpoint, which is to hold nothing else."""
    return output.absolute().with_name(f"{output.absolute().name}.run")


def _experiment(arguments: argparse.Namespace) -> dict[str, Any]:
    """The content of the configuration: the default experiment's, cut down to what the flags ask for."""
    settings = checked_settings(arguments.settings.split(",") if arguments.settings else [arguments.setting])
    checked_methods([arguments.method], list(METHODS))
    if arguments.text_field and not arguments.text:
        raise ValueError("--text-field says where a --text has its text; give both")
    defaults = read_yaml(workflow_folder() / CONFIGURATION)
    calibration, num_test_windows = defaults["calibration"], defaults["evaluation"]["num_windows"]
    name, run = name_of(arguments.model), _run_folder(arguments.output)
    model = _earlier_model(run, name, arguments.model) or describe_model(arguments.model)
    shape = sizes_of_models({name: model}, run)[name].shape
    longest = shape.max_position_embeddings or calibration["window_length"]
    length = arguments.window_length or min(calibration["window_length"], longest)
    corpus = (calibration["corpus"], CorpusDescription.model_validate(defaults["corpora"][calibration["corpus"]]))
    if arguments.text:
        text = describe_text(arguments.text, arguments.text_field)
        corpus = (name_of(arguments.text.stem), text.description)
        num_test_windows = text.test_windows(num_test_windows, length)
    return experiment_of_model(
        defaults,
        model=(name, model),
        corpus=corpus,
        settings=settings,
        method=arguments.method,
        num_windows=arguments.windows or calibration["num_windows"],
        window_length=length,
        num_test_windows=num_test_windows,
        seed=arguments.seed,
    )


def _earlier_model(run: Path, name: str, address: str) -> ModelDescription | None:
    """A hub model as an earlier call of the same described it, so that a run goes on without the hub."""
    configuration = run / CONFIGURATION
    models = (read_yaml(configuration) or {}).get("models", {}) if configuration.is_file() else {}
    return ModelDescription.model_validate(models[name]) if models.get(name, {}).get("hub") == address else None


def _to_yaml(content: Mapping[str, Any]) -> str:
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=118)


def _refuse_other_run(output: Path, run: Path, content: Mapping[str, Any]) -> None:
    """ValueError where the folders hold anything but an earlier call of the same."""
    configuration = run / CONFIGURATION
    if configuration.is_file():
        earlier = read_yaml(configuration) or {}
        others = [key for key in {**earlier, **content} if earlier.get(key) != content.get(key)]
        if others:
            raise ValueError(
                f"{output} is in use: {configuration} differs from what these flags ask for, in {', '.join(others)}; "
                "give another --output, remove both folders, or run that file by the command at its head"
            )
        return
    for folder in (output, run):
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ValueError(
                f"{folder} is in use: it is not empty, and not of a run of altq quantize; give another --output"
            )


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _print_plan(configuration: Path, run: Path, cores: int) -> float:
    """Print what is left to do, and return the bytes that it will write."""
    jobs = list_jobs(configuration, run, [TARGET], cores=cores, gpus=0, remaining=True)
    needs = Needs(Experiment.parse(read_yaml(configuration)), run, gpus=0)
    planned = plan_jobs(needs, [job for job in jobs if job.rule != TARGET])
    print(to_text(needs, planned, cores, 0, _memory(), 0) if planned else "All is done already.\n", end="")
    return sum(job.cost.disk for job in planned)


def _place(content: Mapping[str, Any], setting: str) -> str:
    """Where the workflow has the results of the checkpoint at a setting, below a folder of its own for each stage."""
    (model,), method, (seed,) = content["models"], content["methods"][-1], content["seeds"]
    weights = Experiment.parse(dict(content)).rounding.weights
    return f"{model}/{method}/{setting}/{weights}/seed{seed}"


def _checkpoint(content: Mapping[str, Any], run: Path, setting: str) -> Path:
    return run / "results" / "checkpoints" / _place(content, setting)


def _summary(content: Mapping[str, Any], run: Path) -> str:
    (model,), (corpus,) = content["models"], content["corpora"]
    perplexities = run / "results" / "perplexity"
    before = perplexities / f"{model}/{FULL}/{FULL_PRECISION}/none/seed0/{corpus}.json"
    reference = Measured.read(model, weight_bytes(run / "results" / "models" / model), before)
    return side_by_side(
        reference,
        [
            Measured.read(
                setting, weight_bytes(_checkpoint(content, run, setting)),
                perplexities / _place(content, setting) / f"{corpus}.json",
            )
            for setting in content["settings"]
        ],
    )  # fmt: skip


def _use_of(folder: Path) -> str:
    word = shlex.quote(str(folder))
    return (
        f"altq generate --folder {word} --prompt 'The city of Paris is'\n"
        f"python -m altq.integration run --model hf --model_args pretrained={word} --tasks wikitext --device cpu\n"
        f"in Python: import altq.integration; transformers.AutoModelForCausalLM.from_pretrained({str(folder)!r})"
    )
