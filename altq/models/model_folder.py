"""A folder that holds a model, with its name in messages and the remedy for a fault in it."""

from dataclasses import dataclass
from pathlib import Path

SOURCE_FILE = "source.json"
"""Record that `altq fetch-model` writes last of all: a folder with it is a copy that can be fetched again."""

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"


@dataclass(frozen=True)
class ModelFolder:
    """The folder `path`; messages call it `name` and advise `remedy`, an imperative.

    single_file: the file that holds every tensor, None where there never is one. index_file: the list of files otherwise.
    """

    path: Path
    name: str
    remedy: str
    single_file: str | None = SINGLE_FILE
    index_file: str = INDEX_FILE

    @classmethod
    def at(cls, path: "str | Path | ModelFolder") -> "ModelFolder":
        """The folder at a path, which is its name: one that was fetched, or one of the user's own."""
        if isinstance(path, ModelFolder):
            return path
        fetched = (Path(path) / SOURCE_FILE).is_file()
        remedy = "fetch the model again" if fetched else "correct or replace it"
        return cls(Path(path), str(path), remedy)

    def display_name(self, file: str | Path) -> str:
        """Name of a file of the folder in messages; a link has the name of its target."""
        path = self.path / file
        if path.is_symlink():
            return str(path.resolve())
        return f"{self.name}/{Path(file).name}"

    def remedy_for(self, file: str | Path) -> str:
        """Remedy for a faulty file; a link belongs to the user and is not fetched again."""
        return "correct or replace it" if (self.path / file).is_symlink() else self.remedy
