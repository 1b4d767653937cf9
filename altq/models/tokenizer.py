"""The tokenizer of a model folder, by transformers' own classes: code that a folder brings along is never run."""

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.models.auto.tokenization_auto import tokenizer_class_from_name

from altq.models.configuration import load_config
from altq.models.model_folder import ModelFolder
from altq.runtime.documents import read_described

TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"


def load_tokenizer(folder: str | Path | ModelFolder) -> PreTrainedTokenizerBase:
    """The fast tokenizer of a folder, without network; ValueError where there is none or it is code of its own."""
    folder = ModelFolder.at(folder)
    remedy = "add the tokenizer of the model as AutoTokenizer's save_pretrained writes it"
    if not (folder.path / TOKENIZER_FILE).is_file():
        raise ValueError(f"{folder.name} holds no {TOKENIZER_FILE}; {remedy}")
    _refuse_code(folder, remedy)
    config = load_config(folder)
    try:
        return AutoTokenizer.from_pretrained(folder.path, config=config, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises bare Exception
        raise ValueError(
            f"{folder.display_name(TOKENIZER_FILE)} and what belongs to it cannot be loaded ({error}); {remedy}"
        ) from error


def write_out(tokenizer: PreTrainedTokenizerBase, conversation: list[dict[str, Any]], place: str) -> str:
    """A conversation as text by the tokenizer's chat template; ValueError, with its place, where that refuses it."""
    if not tokenizer.chat_template:
        raise ValueError("the tokenizer has no chat template to write conversations out by; give plain text")
    try:
        text = tokenizer.apply_chat_template(conversation, tokenize=False)
    # A template raises what its author likes, and trips over whatever it does not expect.
    except Exception as error:
        raise ValueError(
            f"{place}: the chat template does not take this conversation ({' '.join(str(error).split())}); correct or "
            "remove it"
        ) from error
    assert isinstance(text, str), "a template without tokenizing gives text"
    return text


def _refuse_code(folder: ModelFolder, remedy: str) -> None:
    if not (folder.path / TOKENIZER_CONFIG_FILE).is_file():
        return
    name = folder.display_name(TOKENIZER_CONFIG_FILE)
    content = read_described(folder.path / TOKENIZER_CONFIG_FILE, dict[str, Any], remedy, name=name)
    tokenizer_class = content.get("tokenizer_class")
    if "auto_map" in content and not (isinstance(tokenizer_class, str) and tokenizer_class_from_name(tokenizer_class)):
        raise ValueError(
            f"{name} names code of its own by auto_map and {tokenizer_class!r} as tokenizer_class, which transformers "
            f"does not have; no code of a model is ever run: {remedy}"
        )
