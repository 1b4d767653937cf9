"""The command that compares two models."""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from altq.commands.command import positive
from altq.evaluation.before_after import side_by_side
from altq.evaluation.comparison import NEW_TOKENS, PROMPT_TOKENS, agreement, measure
from altq.experiment.sources import CorpusDescription
from altq.models.config_file import read_config_file
from altq.models.model_folder import ModelFolder
from altq.models.tokenizer import load_tokenizer
from altq.runtime.documents import read_yaml
from altq.runtime.workflow import CONFIGURATION, workflow_folder
from altq.sources.corpus import fetch_corpus
from altq.sources.text_file import describe_text
from altq.sources.token_file import read_tokens
from altq.sources.tokens import test_tokens


def compare_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("one", type=Path, metavar="A", help="checkpoint folder or model folder")
    parser.add_argument("other", type=Path, metavar="B", help="another, with the same tokenizer")
    parser.add_argument(
        "--text", type=Path, metavar="FILE", help="whose held-out part is read, as `altq quantize` does (encyclopedia)"
    )
    parser.add_argument("--text-field", metavar="NAME", help="field of its rows that holds the text (text)")
    parser.add_argument("--windows", type=positive, metavar="N", help="windows of the text (12, or what there is)")
    parser.add_argument("--window-length", type=positive, metavar="N", help="tokens in each (512, or the models' most)")


def compare(arguments: argparse.Namespace) -> None:
    """Compare two checkpoints, or a checkpoint and its model: size, perplexity, next token, speed.

    Reads two folders, and text. Writes nothing; prints what their weights take on disk, their perplexities with 95 %
    intervals and the ratio of both, paired by windows, how often both take the same next token for the likeliest, and the
    tokens a second that they make, checkpoints on the packed kernels. Models whose tokenizers differ are refused.

      altq compare /data/my-llama my-llama-W4A4
    """
    folders = (arguments.one, arguments.other)
    names = ("A", "B")
    with TemporaryDirectory() as scratch:
        tokens = _shared_tokens(arguments, folders, Path(scratch))
    one, other = (measure(name, folder, tokens) for name, folder in zip(names, folders, strict=True))
    print(f"A is {arguments.one}\nB is {arguments.other}\n")
    print(side_by_side(one.measured, [other.measured]))
    places = other.likeliest.numel()
    print(f"\nThe likeliest next token is the same at {100 * agreement(one, other):.1f} % of {places:,} places.")
    speeds = " and ".join(f"{name} {of.tokens_per_second:.1f}" for name, of in zip(names, (one, other), strict=True))
    print(
        f"Tokens a second: {speeds} (the median of making {NEW_TOKENS} after {PROMPT_TOKENS}, "
        f"{torch.get_num_threads()} threads)."
    )


def _shared_tokens(arguments: argparse.Namespace, folders: tuple[Path, Path], scratch: Path) -> np.ndarray:
    """Windows of the held-out text [windows, length]; ValueError where the tokenizers differ."""
    defaults = read_yaml(workflow_folder() / CONFIGURATION)
    contexts = [read_config_file(ModelFolder.at(folder)).max_position_embeddings for folder in folders]
    length = arguments.window_length or min(defaults["evaluation"]["window_length"], *filter(None, contexts))
    count = arguments.windows or defaults["evaluation"]["num_windows"]
    if arguments.text:
        text = describe_text(arguments.text, arguments.text_field)
        description, count = text.description, arguments.windows or text.test_windows(count, length)
    elif arguments.text_field:
        raise ValueError("--text-field says where a --text has its text; give both")
    else:
        description = CorpusDescription.model_validate(defaults["corpora"][defaults["calibration"]["corpus"]])
    vocabularies = [load_tokenizer(folder).get_vocab() for folder in folders]
    fetch_corpus(description, scratch / "corpus")
    drawn = []
    for number, folder in enumerate(folders):
        path = scratch / f"{number}.npy"
        test_tokens(folder, scratch / "corpus", path, num_windows=count, window_length=length)
        drawn.append(read_tokens(path, folder)[0])
    if vocabularies[0] != vocabularies[1] or not np.array_equal(drawn[0], drawn[1]):
        raise ValueError(
            f"{folders[0]} and {folders[1]} have different tokenizers, so that neither their perplexities nor their next "
            "tokens can be compared; give two with the same"
        )
    return drawn[0]
