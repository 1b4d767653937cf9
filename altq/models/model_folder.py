"""A folder that holds a model: what to call it in a message, and what helps where something in it is wrong."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

SOURCE_FILE = "source.json"
"""What `altq fetch-model` writes last of all: with it, the folder is a copy that can be made again."""

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"


@dataclass(frozen=True)
class ModelFolder:
    """The folder `path`, said as `name`; `remedy` is what an error tells to do, as an imperative.

    single_file (None where there never is one), index_file: where its tensors are, or the names of their files.
    """

    path: Path
    name: str
    remedy: str
    single_file: str | None = SINGLE_FILE
    index_file: str = INDEX_FILE

    @classmethod
    def at(cls, path: "str | Path | ModelFolder") -> Self:
        """The folder at a path, which is its name: one that was fetched, or one of the user's own."""
        if isinstance(path, ModelFolder):
            return path
        fetched = (Path(path) / SOURCE_FILE).is_file()
        remedy = "fetch the model again" if fetched else "correct or replace it"
        return cls(Path(path), str(path), remedy)

    def shown(self, file: str | Path) -> str:
        """A file of the folder, as a message names it: where it is a link, what it links to."""
        path = self.path / file
        if path.is_symlink():
            return str(path.resolve())
        return f"{self.name}/{Path(file).name}"

    def remedy_for(self, file: str | Path) -> str:
        """What helps where a file is wrong: one that is a link belongs to the user and is not fetched again."""
        return "correct or replace it" if (self.path / file).is_symlink() else self.remedy
