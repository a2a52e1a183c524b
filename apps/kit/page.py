"""What is said of a page outside of it: the PAGE of its module, read by the gallery, the Spaces and docs/api.md."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from apps.kit import uploads

EXAMPLES = uploads.EXAMPLES


@dataclass(frozen=True, kw_only=True)
class Page:
    """A page, for all who name it."""

    stem: str
    title: str
    sentence: str  # under the title
    card: str  # what its card in the gallery says instead
    short: str  # at most 60 characters: the Space's short description
    models: tuple[str, ...]  # the bundled variants that it opens with; of a page of several stems each stem=variant
    gpu_seconds: int  # what a call may take on ZeroGPU
    call: str  # the endpoint that stands for the page in checks
    example: Mapping = field(default_factory=dict)  # its arguments in docs/api.md
    also: tuple[str, ...] = ()  # what it loads besides: all weights of a stem, or one of them, stem/variant

    def of_stem(self, name: str) -> tuple[str, str]:
        """The stem that a model of the page is of, and its name there."""
        stem, several, own = name.partition("=")
        return (stem, own) if several and any("=" in model for model in self.models) else (self.stem, name)

    @property
    def folder(self) -> Path:
        """Its example pictures, those on its card (card*.png) and their index.json."""
        return EXAMPLES / self.stem

    @property
    def examples(self) -> list[dict]:
        """The rows of the examples' index: file, name, credit and more; [] where there is none."""
        return index_of(self.folder)


def index_of(folder: Path) -> list[dict]:
    """The rows of a folder's index.json; [] where there is none."""
    index = folder / "index.json"
    return json.loads(index.read_text(encoding="utf-8")) if index.is_file() else []
