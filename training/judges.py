"""The judges of what is drawn: a captioner and a classifier as they were at one commit, the same for all comparisons.

    python -m training.judges       # where they are; fetched from git's history into build/judges where they have to be

A judge is nothing that the judged was trained with, started from or aligned to. No drawing model here has seen either
of these. The classifier was trained from random weights. The captioner's tower began as that of clip/emoji, whose
text tower text_to_image reads: the two are cousins by that, and so the classifier is asked, too.
"""

import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from hub_models import captioning, classifier, store
from training import metrics
from training.data.captions import core
from training.data.facts import Facts
from training.data.sources import Source
from training.data.split import ROOT
from training.task import Results, by_label

COMMIT = "06bd8df608f7564d783cb46b1f2315b23af0d3b4"
FOLDER = ROOT / "build" / "judges"
Pictures = Sequence[np.ndarray] | np.ndarray  # uint8 (R, R, 3) each
BEAMS = 5
FEWEST = 10  # pictures of either kind that a distance between kinds is measured on
# {stem: (variant, {file: its sha256 at COMMIT, and where it differs with the world of today, which no answer reads})}
KEPT: dict[str, tuple[str, dict[str, tuple[str, ...]]]] = {
    "captioning": (
        "emoji",
        {
            "config.json": ("67e0e583b2b45b51f3fcb27a640e159a2e9bbb964667cee8ce1fcfe9db7d01de",),
            "generation_config.json": ("205e86dcc35441580ce27de1cc06613b18f672cf12806972cbd3eda6bb87c3e9",),
            "model.safetensors": ("fb7fbc070d00b7a4b5f9f2c74ac6e0b9c4a305016d6c1636590ba062033aba9f",),
            "preprocessor_config.json": (
                "3b46315041af747786fbf850f536ff5d45ff281d6ba56a5ab44d366b11236da3",
                "5a4cb509938ee27c7627788890d961a6c2e60a9a341c1418663db6bda851b1a0",
            ),
            "tokenizer.json": ("f2c1fd15d9295cb5b22e90420c40ec93efbdcebf438c526d02bc81e68b2c0135",),
            "tokenizer_config.json": ("8363c83244a0ff2add40f82aa458f9534c06589e15fe40b84d1c791fbb5a6af9",),
        },
    ),
    "classifier": (
        "swin",
        {
            "config.json": (
                "17956d02d7ea3e39657f649594af9d041f497952d77dc0acad9a23f3dc99faee",
                "dfcb0834ae7b56de5152ef51091860685a531b335265d2d3c13310a5293fdc45",
            ),
            "model.safetensors": ("df3aace49b8349ef47862aa7fa338edc35660277541aadda2c422e3225ec41bb",),
        },
    ),
}


@dataclass(frozen=True)
class Judges:
    """Both, loaded. Pictures are uint8 (R, R, 3) each, at any R: a judge resizes them itself.

    own: the classifier is one of the data that are drawn, which isn't ours, and there is no captioner of them.
    """

    captioner: captioning.Captioner | None
    classifier: classifier.Classifier
    own: bool = False

    @property
    def said(self) -> dict[str, str]:
        """Who they are, for results.json: {stem: its weights' hash}."""
        those = {"captioning": self.captioner, "classifier": self.classifier}
        return {stem: judge.weights_sha256[:12] for stem, judge in those.items() if judge}

    def know(self, facts: Facts, label_names: Sequence[str] = ()) -> bool:
        """Whether these pictures, and classes of them, are what they were trained on: else their word means nothing."""
        return (self.own or bool(facts.ours)) and set(label_names) <= set(self.classifier.label_names)

    def scores(self, pictures: Pictures, names: Sequence[str], classes: Sequence[str]) -> dict[str, float]:
        """Shares of pictures that are taken for what was asked for.

        named_first: the greedy caption says the name. named_top5: one of five beams does. classed: the classifier's
        first class is that of the name.
        """
        assert self.captioner is not None
        shown = [Image.fromarray(picture) for picture in pictures]
        first = self.captioner.caption_all(shown)
        five = self.captioner.caption_all(shown, num_beams=BEAMS, num_return_sequences=BEAMS)
        return {
            "named_first": _share(is_named(said[0].text, name) for said, name in zip(first, names, strict=True)),
            "named_top5": _share(
                any(is_named(one.text, name) for one in said) for said, name in zip(five, names, strict=True)
            ),
            "classed": _share(said == asked for said, asked in zip(self.classes(pictures), classes, strict=True)),
        }

    def classes(self, pictures: Pictures) -> list[str]:
        """The classifier's first class of each picture."""
        rows = metrics.in_batches(self.classifier.logits, pictures).argmax(1)
        return [self.classifier.label_names[row] for row in rows]

    def classes_by_name(self, pictures: Pictures, of: Mapping[str, str]) -> list[str | None]:
        """The class of what the captioner names first in each picture; of: {`core` of a name: its class}."""
        assert self.captioner is not None
        said = self.captioner.caption_all([Image.fromarray(picture) for picture in pictures])
        return [of.get(core(best[0].text.split(",")[0])) for best in said]

    def note_kid(self, results: Results, drawn: np.ndarray, real: np.ndarray, known: np.ndarray) -> None:
        """Note the kernel inception distance × 1000 of drawn to real pictures in the classifier's features.

        Beside it the ends of its 95 % interval, and as the baseline that of as many training pictures to real ones. An
        interval that holds 0 swallows the number: then a sentence says so instead, as of fewer than FEWEST pictures.
        """
        if (fewest := min(len(drawn), len(real))) < FEWEST:
            results.left_out.append(f"KID × 1000 is left out: it takes {FEWEST} pictures, {fewest} are held out.")
            return
        some = known[np.random.default_rng(0).permutation(len(known))[: len(real)]]
        rows, of_real, of_known = (metrics.in_batches(self.classifier.features, part) for part in (drawn, real, some))
        value, low, high = (1000 * number for number in metrics.kernel_inception_distance(rows, of_real))
        if low <= 0:
            results.left_out.append(
                f"KID × 1000 is left out: its 95 % interval, {low:.1f} to {high:.1f} around {value:.1f}, holds 0."
            )
            return
        results.metrics |= {"kid_x1000": value, "kid_x1000_low": low, "kid_x1000_high": high}
        results.baseline["kid_x1000"] = 1000 * metrics.kernel_inception_distance(of_known, of_real)[0]

    def note_labels(self, results: Results, draw: Callable[[list[int]], np.ndarray], names: Sequence[str],
                    train: Source, real: np.ndarray, real_labels: Sequence) -> np.ndarray:  # fmt: skip
        """Note whether drawn pictures show what was asked for; a dozen of each label come back, (N, R, R, 3).

        draw(rows) gives a picture of each label's number. label_accuracy: the share that the classifier takes for the
        label asked for. named_label_accuracy: the share in which the captioner names a thing of that label first. The
        baseline is the same for real held-out pictures at this resolution.
        """
        rows = np.repeat(np.arange(len(names)), 25)
        pictures = draw(rows.tolist())
        for kept, images, labels in ((results.metrics, pictures, rows), (results.baseline, real, real_labels)):
            asked, said = np.array([names[label] for label in labels]), np.array(self.classes(images))
            kept["label_accuracy"] = float((said == asked).mean())
            if self.captioner:
                of = {core(name): names[label] for name, label in zip(train.column("name"), train.labels, strict=True)}
                kept["named_label_accuracy"] = float((np.array(self.classes_by_name(images, of)) == asked).mean())
            if kept is results.metrics:  # what is taken for a class that wasn't asked for counts for none
                ids = np.array([names.index(one) if one in names else -1 for one in said])
                confusion = metrics.confusion_matrix(ids[ids >= 0], rows[ids >= 0], len(names))
                right = [float((ids[rows == row] == row).mean()) for row in range(len(names))]
        results.per_class["label_accuracy"] = by_label(names, right)
        results.curves["confusion"] = confusion.tolist()
        return np.concatenate([pictures[rows == row][:12] for row in range(len(names))])  # a row a class


def is_named(text: str, name: str) -> bool:
    """Whether a caption says this name first; article, style, "an emoji of" and what follows a comma aside."""
    return core(name) in (core(text), core(text.split(",")[0]))


def _share(right) -> float:
    return float(np.mean(list(right)))


def load(device=None) -> Judges:
    """Both judges, by the contracts' own loaders. Raises store.CheckpointError where they can't be had."""
    return Judges(captioning.load(str(folder_of("captioning")), device),
                  classifier.load(str(folder_of("classifier")), device))  # fmt: skip


def of_own(name: str, label_names: Sequence[str], device=None) -> Judges:
    """Somebody's own classifier as the judge of their data. Raises SystemExit where it doesn't know these classes."""
    own = classifier.load(name, device)
    if lacking := sorted(set(label_names) - set(own.label_names)):
        raise SystemExit(
            f"--judge {name} does not know {', '.join(map(repr, lacking[:5]))}: train a classifier on the same data, "
            "or leave --judge off"
        )
    return Judges(None, own, own=True)


def folder_of(stem: str) -> Path:
    """The checked folder of a judge: the shipped one while it is the same, else build/judges/<stem>, fetched once."""
    name, _ = KEPT[stem]
    shipped, kept = store.WEIGHTS / stem / name, FOLDER / stem
    if not altered(stem, shipped):
        return shipped
    if not kept.is_dir():
        fetch(stem, kept)
    if files := altered(stem, kept):
        raise store.CheckpointError(
            f"{kept / files[0]} is not the judge's (by its sha256): delete {kept} and run python -m training.judges"
        )
    return kept


def altered(stem: str, folder: Path) -> list[str]:
    """The files of a judge that are missing from a folder, or others there."""
    files = KEPT[stem][1]
    return [name for name, hashes in files.items()
            if not (folder / name).is_file() or store.file_sha256(folder / name) not in hashes]  # fmt: skip


def fetch(stem: str, folder: Path) -> None:
    """Write a judge's files as they are at COMMIT into a folder. Raises store.CheckpointError where git lacks them."""
    name, files = KEPT[stem]
    content = {}
    for file in files:
        place = f"{COMMIT}:hub_models/weights/{stem}/{name}/{file}"
        try:
            content[file] = subprocess.run(["git", "-C", ROOT, "show", place], capture_output=True, check=True).stdout
        except (OSError, subprocess.CalledProcessError) as error:
            raise store.CheckpointError(
                f"the judge {stem}/{name} is neither shipped unaltered, nor in {folder}, nor in git's history here: "
                f"in a clone run `git fetch --unshallow`, or copy its files as of {COMMIT[:7]} into {folder}"
            ) from error
    folder.mkdir(parents=True)
    for file, data in content.items():
        (folder / file).write_bytes(data)


def main() -> None:
    for stem, (name, files) in KEPT.items():
        try:
            folder = folder_of(stem)
        except store.CheckpointError as error:
            raise SystemExit(str(error)) from error
        print(f"{stem}/{name} as of {COMMIT[:7]}: {folder}, {len(files)} files checked")


if __name__ == "__main__":
    main()
