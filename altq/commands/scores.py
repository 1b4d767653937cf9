"""Commands that score every candidate kind at every sublayer: by search, on held-out text, in closed form."""

import argparse
from pathlib import Path

from altq.calibration.bank import banks_by_kind
from altq.calibration.subject import Subject
from altq.commands.command import (
    add_banks,
    add_candidates,
    add_loss,
    add_model,
    add_output,
    add_seed,
    add_setting,
    add_states,
)
from altq.commands.device import add_device
from altq.experiment.policies import SearchOptions
from altq.experiment.recipe import Recipe
from altq.experiment.setting import Setting
from altq.runtime.documents import described
from altq.runtime.files import parse_json, write_text
from altq.runtime.flags import add_options, read_options
from altq.runtime.gpu import open_device
from altq.runtime.lineage import check_lineage, run_fingerprint
from altq.runtime.provenance import provenance
from altq.selection.candidates import Candidates
from altq.selection.learned import SearchRecord, curve, final_shares, search_model
from altq.selection.oracle import reconstruction_errors
from altq.selection.predicted import predict_model
from altq.selection.scores import Scores
from altq.sources.token_file import read_tokens


def search_flags(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add_states(parser)
    add_setting(parser)
    add_candidates(parser)
    add_seed(parser, "random starts")
    fields = ", ".join(SearchOptions.model_fields)
    parser.add_argument("--search", default="{}", metavar="JSON", help=f"what is not default of: {fields}")
    add_device(parser)
    add_output(parser, "folder")
    add_options(parser, Recipe)


def search(arguments: argparse.Namespace) -> None:
    """Search the best kind of each sublayer by gradients: a softmax mixture of candidates (Eq. 5-7 of the paper).

    Reads a model folder and the states that `altq states` wrote. Writes, to one folder, a file for each sublayer,
    curve.csv (pi, reconstruction error and entropy over the steps) and scores.json, last: pi at the end, by which `altq
    select --policy learned` chooses. A search that was stopped goes on at the sublayer where it stopped. Transforms
    start and learn as in `altq calibrate`, whose options these are; they are not kept, since the bank has them.

      altq search --model results/models/smollm2 --states results/states/smollm2/seed0 --setting W3A3K3V3 --seed 0 \\
          --candidates affine rotation --search '{"steps": 16}' --output results/scores/smollm2/W3A3K3V3/seed0/learned
    """
    setting, recipe = Setting.parse(arguments.setting), read_options(arguments, Recipe)
    remedy = "see `altq search --help` for what it takes"
    options = described(parse_json(arguments.search, "--search"), SearchOptions, name="--search", remedy=remedy)
    inputs, device = [arguments.model, arguments.states], open_device(arguments.device, arguments.gpu_memory)
    check_lineage(inputs)
    fingerprint = run_fingerprint("search", {}, [arguments.model])
    candidates = Candidates(tuple(arguments.candidates), setting=setting, seed=arguments.seed, recipe=recipe)
    subject = Subject.open(arguments.model, arguments.states, device=device)
    traces = search_model(subject, candidates, options=options, folder=arguments.output, fingerprint=fingerprint)
    write_text(arguments.output / "curve.csv", curve(candidates.kinds, traces))
    settings = {
        "setting": str(setting),
        "seed": arguments.seed,
        "search": options.model_dump(),
        "recipe": recipe.model_dump(),
    }
    record = provenance("search", settings, inputs, device)
    # A search that went on where it was stopped took longer than its last process.
    searched = SearchRecord.of(arguments.output)
    record["processor_seconds"] = max(record["processor_seconds"], searched.processor_seconds)
    record["devices"] = searched.devices
    name = arguments.model.resolve().name
    scores = final_shares(traces, candidates=candidates, model=name, provenance=record)
    scores.write(arguments.output / "scores.json")


def reconstruction_flags(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument("--tokens", type=Path, required=True, metavar="FILE", help="held-out tokens (.npy)")
    add_setting(parser)
    add_banks(parser, "of each candidate kind")
    add_loss(parser)
    add_device(parser)
    add_output(parser, ".json file")


def reconstruction(arguments: argparse.Namespace) -> None:
    """Measure the reconstruction error of calibrated sublayers on tokens that their calibration did not see.

    Reads a model folder, held-out tokens and a bank of each candidate kind. Writes a .json file with the error of every
    kind at every sublayer, by which `altq select` chooses (policies oracle and probe).

      altq reconstruction --model results/models/smollm2 --tokens results/tokens/smollm2/wikipedia/held_out-seed0.npy \\
          --banks results/bank/smollm2/W3A3K3V3/seed0/affine results/bank/smollm2/W3A3K3V3/seed0/rotation \\
          --setting W3A3K3V3 --loss relative --output oracle.json
    """
    setting, banks = Setting.parse(arguments.setting), banks_by_kind(arguments.banks)
    inputs, device = (
        [arguments.model, arguments.tokens, *banks.values()],
        open_device(arguments.device, arguments.gpu_memory),
    )
    check_lineage(inputs, {"setting": str(setting)})
    tokens, _ = read_tokens(arguments.tokens, arguments.model)
    errors = reconstruction_errors(
        arguments.model, tokens, banks=banks, setting=setting, loss=arguments.loss, device=device
    )
    options = {"setting": str(setting), "loss": arguments.loss}
    scores = Scores(
        model=arguments.model.resolve().name,
        quantity="reconstruction error",
        lower_is_better=True,
        values=tuple(errors),
        provenance=provenance("reconstruction", options, inputs, device),
    )
    scores.write(arguments.output)


def predict_flags(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add_states(parser)
    add_setting(parser)
    add_candidates(parser)
    add_seed(parser, "random starts")
    add_device(parser)
    add_output(parser, ".json file")
    add_options(parser, Recipe)


def predict(arguments: argparse.Namespace) -> None:
    """Predict how well each kind quantizes from second moments alone: concentration and alignment, no training.

    Reads a model folder and the states that `altq states` wrote. Writes a .json file with the
    signal-to-quantization-noise ratio (in decibels, larger is better) of the closed-form start of every candidate kind
    at every sublayer, by which `altq select --policy predicted` chooses.

      altq predict --model results/models/smollm2 --states results/states/smollm2/seed0 --setting W3A3K3V3 --seed 0 \\
          --candidates affine rotation --output predicted.json
    """
    setting, recipe = Setting.parse(arguments.setting), read_options(arguments, Recipe)
    inputs, device = [arguments.model, arguments.states], open_device(arguments.device, arguments.gpu_memory)
    check_lineage(inputs)
    candidates = Candidates(tuple(arguments.candidates), setting=setting, seed=arguments.seed, recipe=recipe)
    predictions = predict_model(Subject.open(arguments.model, arguments.states, device=device), candidates)
    options = {"setting": str(setting), "seed": arguments.seed, "recipe": recipe.model_dump()}
    scores = Scores(
        model=arguments.model.resolve().name,
        quantity="SQNR in dB",
        lower_is_better=False,
        values=tuple({kind: prediction.sqnr for kind, prediction in by_kind.items()} for by_kind in predictions),
        provenance=provenance("predict", options, inputs, device),
    )
    scores.write(arguments.output)
