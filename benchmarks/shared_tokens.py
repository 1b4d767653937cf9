"""Calibration against official FlatQuant on the same tokens: perplexity and processor time, weights rounded to nearest.

The token arrays (32 calibration windows and 24 test windows of 512, SmolLM2's tokenizer on WikiText-2) make the
comparison exact; full precision is 32.325. Official FlatQuant after 8 steps of 4 windows: 113.0 at W4A4K4V4 in about
270 s of processor time, and 244,925 at W3A3K3V3.

  python benchmarks/shared_tokens.py --model results/models/smollm2 --tokens ../shared/data/tokens --setting W4A4K4V4
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

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
from altq.runtime.flags import add_options, read_options
from altq.runtime.resume import Scratch
from altq.selection.selection import fixed_selection


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of SmolLM2-135M-Instruct")
    parser.add_argument("--tokens", type=Path, required=True, help="folder of the two token arrays")
    parser.add_argument("--setting", type=Setting.parse, default=Setting.parse("W4A4K4V4"))
    parser.add_argument("--kind", default="affine")
    parser.add_argument("--loss", default="relative", choices=("relative", "mse"))
    parser.add_argument("--windows", type=int, default=32, help="calibration windows")
    parser.add_argument("--weights", default="rtn", choices=("rtn", "gptq"))
    parser.add_argument("--states", type=Path, help="states recorded before; recorded (and timed) when absent")
    add_options(parser, Recipe)
    arguments = parser.parse_args()
    recipe = read_options(arguments, Recipe)
    torch.set_num_threads(1)
    calibration = np.load(arguments.tokens / "smollm2_wikitext2_calibration_32x512.npy")[: arguments.windows]
    test = np.load(arguments.tokens / "smollm2_wikitext2_test_24x512.npy")
    seconds: dict[str, float] = {}

    def timed(name: str, function, *positional, **named):
        began = time.process_time()
        result = function(*positional, **named)
        seconds[name] = round(time.process_time() - began, 1)
        return result

    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        states = arguments.states or work / "states"
        if arguments.states is None:
            options = {"loss": arguments.loss, "folder": states, "fingerprint": ""}
            timed("states", record_states, arguments.model, calibration, **options)
        fitting = Fitting(arguments.setting, kind=arguments.kind, seed=0, recipe=recipe)
        subject = Subject.open(arguments.model, states)
        timed("calibration", calibrate_bank, subject, fitting, work / "bank", fingerprint="")
        num_blocks = json.loads((arguments.model / "config.json").read_text())["num_hidden_layers"]
        scheme = Scheme(
            fixed_selection("smollm2", num_blocks, arguments.kind),
            setting=arguments.setting,
            rounding=RoundingOptions(weights=arguments.weights),
            banks={arguments.kind: work / "bank"},
        )
        timed("assembly", assemble, arguments.model, states, scheme=scheme, folder=work / "checkpoint", fingerprint="")
        entries = json.loads((work / "bank" / "index.json").read_text())["entries"]
        losses = timed("evaluation", window_losses, open_model(work / "checkpoint"), test, Scratch(work / "stream", ""))
    perplexity = float(np.exp(np.sum(losses) / (test.shape[0] * (test.shape[1] - 1))))
    mean_log = float(np.mean([np.log(entry["loss"]) for entry in entries]))
    total = sum(spent for name, spent in seconds.items() if name != "evaluation")
    result = {
        "setting": str(arguments.setting),
        "kind": arguments.kind,
        "steps": recipe.steps,
        "perplexity": round(perplexity, 3),
        "mean_log_loss": round(mean_log, 4),
        "steps_kept": sum(entry["steps_kept"] for entry in entries),
        "seconds": seconds,
        "calibration_processor_seconds": round(total, 1),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
