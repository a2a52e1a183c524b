"""What the page computes, for people and for programs: what is in a picture, who silences whom, and what was asked for.

The model runs once for a picture; thresholds, overlaps and sentences are of its candidates. They come in percent.
"""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from apps.detection import words
from apps.detection.film import Film
from apps.detection.paint import Doubles, Seen, drawn
from apps.detection.wanted import Reader, Verdict
from apps.kit import answers, homes, launch, pictures, uploads, values
from apps.kit.page import Page
from apps.kit.picture_page import file_stem, shown_file
from apps.kit.session import Recent, StopFlags
from hub_models import detection, drawing
from hub_models.detection import Detections, Detector
from hub_models.store import CheckpointError
from hub_models.texts import one_line

FLOOR = 0.01  # score of what is kept of a picture; below it is what a model gives for lack of anything better
MOST = 200  # candidates of a picture that are kept, the surest
MOST_CHARACTERS = 400  # of a sentence
RECENT_BYTES = 400_000_000


def load_models(names: Sequence[str]) -> dict[str, Detector | CheckpointError]:
    """Each named model, or the error in its place."""
    return launch.load_each(detection.load, names)


class Look(NamedTuple):
    """What is asked of the page: a picture's file, a model, and what counts as found, in percent."""

    path: str | None
    name: str
    threshold: float
    silence: bool = False
    overlap: float = 50
    across: bool = False

    @classmethod
    def of(cls, model: Detector) -> "Look":
        """What a page begins with: no picture, and the model's own threshold and overlap."""
        silence = model.overlap is not None
        overlap = 100 * model.overlap if model.overlap is not None else cls._field_defaults["overlap"]
        return cls(None, model.name, 100 * model.threshold, silence, overlap, silence)

    @property
    def least(self) -> float:
        """The score from which on a thing counts, checked."""
        return values.percent(self.threshold, "Threshold") / 100

    @property
    def doubles(self) -> Doubles:
        """What is done with boxes of the same thing, checked."""
        silence, across = values.switch(self.silence, "Silence doubles"), values.switch(self.across, "Across classes")
        return Doubles(silence, values.percent(self.overlap, "Overlap") / 100, across)


class Desk:
    """The models that are loaded, the sentences of the examples, and the last results."""

    def __init__(self, models: Mapping[str, Detector], page: Page):
        self.models, self.page, self.flags = values.Models(models), page, StopFlags()
        self.recent = Recent(RECENT_BYTES, lambda seen: seen.nbytes)
        self.readers = {name: Reader(model.label_names) for name, model in models.items()}
        self.said = {uploads.content(page.folder / row["file"]): row["said"] for row in page.examples if "said" in row}

    def see(self, path: str | None, name) -> Seen:
        """What the model makes of the picture in the file, from the recent ones where it is there.

        Raises PictureError as pictures.read_picture.
        """
        model = self.models.chosen(name)
        key = (model.name, model.weights_sha256, path)
        if path and (seen := self.recent.get(key)):
            return seen
        picture, started = pictures.read_picture(path), time.perf_counter()
        [found] = model.detect([picture], FLOOR)
        few = found.only(np.arange(min(len(found), MOST)))
        return self.recent.keep(key, Seen(picture, few, len(found), time.perf_counter() - started))

    def found(self, look: Look) -> tuple[Seen, Detections]:
        """The picture as the model sees it, and what counts as found in it."""
        least, doubles = look.least, look.doubles
        seen = self.see(look.path, look.name)
        return seen, seen.found(least, doubles)

    def verdict(self, look: Look, wanted) -> Verdict:
        """What the sentence asks for beside what was found. Raises InputError for what is no sentence of a class."""
        text = self.sentence(wanted)
        verdict = self.readers[look.name].verdict(text, self.found(look)[1].counts())
        if not verdict.wishes:
            names = ", ".join(self.models.chosen(look.name).label_names[:20])
            raise values.InputError(f"Nothing that {look.name} knows is in this sentence. It knows: {names}.")
        return verdict

    def sentence(self, wanted) -> str:
        """The text on one line. Raises InputError for what isn't text or too long."""
        if not isinstance(wanted, str) or not (text := one_line(wanted).strip()):
            raise values.InputError("Say what should be there, like: two faces and a car.")
        if len(text) > MOST_CHARACTERS:
            raise values.InputError(
                f"The sentence has {len(text):,} characters, at most {MOST_CHARACTERS} are taken: shorten it."
            )
        return text

    def own_words(self, path: str | None) -> str:
        """The sentence that a picture brings along: of the examples, or the prompt in a PNG drawn here; "" without."""
        try:
            if said := self.said.get(uploads.content(path or "")):
                return said
            prompt = drawing.read_receipt(pictures.read_png_text(path)).get("prompt")
        except (uploads.PictureError, drawing.ReceiptError):
            return ""
        return one_line(prompt).strip()[:MOST_CHARACTERS] if isinstance(prompt, str) else ""

    # Files to keep

    def painted(self, seen: Seen, found: Detections, name: str) -> str:
        """The path of the picture with what was found, as the page shows it."""
        return shown_file(drawn(seen, found), f"{name}-boxes")

    def painted_file(self, *look) -> str:
        look = Look(*look)
        data = pictures.png_bytes(drawn(*self.found(look), full=True))
        return answers.cached_file(data, f"{file_stem(look.name)}-boxes.png")

    def coco_file(self, *look) -> str:
        look = Look(*look)
        said = words.coco(*self.found(look), Path(look.path or "picture").name)
        return self._json(said, f"{look.name}-coco")

    def json_file(self, *look) -> str:
        look = Look(*look)
        return self._json(self.report(look), look.name)

    def _json(self, said: dict, name: str) -> str:
        data = json.dumps(said, indent=1, ensure_ascii=False).encode()
        return answers.cached_file(data, f"{file_stem(name)}.json")

    def report(self, look: Look) -> dict:
        model, (seen, found) = self.models.chosen(look.name), self.found(look)
        asked = {"threshold": look.threshold, "silence": look.silence, "overlap": look.overlap, "across": look.across}
        return words.report(model, seen, found, asked)

    # For programs

    def detection_detect(self, picture, model, threshold, silence, overlap, across):
        """The things in a picture: boxes with class and score, and how many of each class; painted, and as COCO's JSON.

        Boxes are left, top, right, bottom in pixels, the surest first. `world` says what kind of pictures the model has
        seen, and which of the loaded models the picture is for.

        Parameters:
            picture: a picture file
            model: the name of a loaded model
            threshold: things surer than so many percent count, 0 to 100; below 1 there are no candidates
            silence: whether of boxes that overlap the surest alone counts
            overlap: what two boxes share, of what both cover together, from which on one is silenced, 0 to 100 percent
            across: whether boxes of different classes silence each other, too
        """
        look = Look(picture, model, threshold, silence, overlap, across)
        chosen, said = self.models.chosen(model), self.report(look)
        said |= {"world": homes.fact(picture, chosen.name, self.models)}
        return self.painted_file(*look), self.coco_file(*look), said

    def detection_check(self, picture, wanted, model, threshold, silence, overlap, across):
        """Whether what a sentence asks for is in a picture: what is missing, too much, or there unasked, by class.

        Names of things stand for their class: "a cat and two red apples" asks for one animal and two of food.

        Parameters:
            picture: a picture file
            wanted: what should be there, as one says it: "two faces and a car", "no flags", "at least 3 animals"
            model: the name of a loaded model
            threshold: things surer than so many percent count, 0 to 100
            silence: whether of boxes that overlap the surest alone counts
            overlap: what two boxes share, of what both cover together, from which on one is silenced, 0 to 100 percent
            across: whether boxes of different classes silence each other, too
        """
        look = Look(picture, model, threshold, silence, overlap, across)
        self.models.chosen(model)
        return words.verdict_report(self.verdict(look, wanted))

    def detection_steps(self, picture, model, candidates, overlap, across):
        """Non-maximum suppression step by step: in each, the surest box left is kept and silences those over it.

        Parameters:
            picture: a picture file
            model: the name of a loaded model
            candidates: boxes surer than so many percent take part, 0 to 100
            overlap: what two boxes share, of what both cover together, from which on one is silenced, 0 to 100 percent
            across: whether boxes of different classes silence each other, too
        """
        return self.film(picture, model, candidates, overlap, across).report()

    def film(self, path: str | None, name, candidates, overlap, across) -> Film:
        """The candidates above so many percent, and who silences whom. Raises InputError, PictureError."""
        least = values.percent(candidates, "Candidates") / 100
        doubles = Look(path, name, 0, True, overlap, across).doubles
        return Film.of(self.see(path, name), least, doubles)
