"""Pictures with a class for every pixel, checked before training: painted scenes, a folder, or of the Hub.

    source = open_masks("path/to/pictures", split="train")
    check(source)
    source.picture(0), source.mask(0), source.id2label

A data set has a column of pictures and one of masks: single-channel images whose grey value (or palette index) is the
class id, 255 where there is no answer, or colours by label_colors.json (`training.data.mask_files`), and an
id2label.json that names the ids. As a folder:

    train/metadata.jsonl     {"file_name": "images/1.jpg", "label_file_name": "masks/1.png"} for each picture
    train/images/1.jpg, train/masks/1.png, …, validation/… (or no validation: then a tenth of train is it); where
                             there is no metadata.jsonl, equal names are pairs
    id2label.json            {"0": "road", "1": "sky"}

Whatever is wrong is a `DataError` that names the files and what to do.
"""

import dataclasses
import hashlib
import io
import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from hub_models.pictures import formats
from training.data.art import on_ground
from training.data.facts import Facts, facts_of
from training.data.files import DataError, Files, choices, first_line, some
from training.data.mask_files import COLOURS, IGNORE, NO_ANSWER, by_colour, palette_of, read_colours, read_mask
from training.data.scenes import Scenes
from training.data.sources import decode, file_of, licenses
from training.data.split import THREADS, Split, open_split, readable

FULLY_READ = 500  # masks that `check` looks into; more only while a class is still missing
LINES = 40  # of faults that a message lists
PRELOAD_BYTES = 2 * 2**30  # more than that is decoded as it is asked for
ORIENTATION = 0x0112  # EXIF; from 5 on the picture lies on its side
SCENES = {"scenes": "emoji", "scenes-sample": "emoji-sample"}  # name: what they are painted from


def open_masks(
    dataset_name: str = "scenes",
    *,
    split: str,
    dataset_config_name: str | None = None,
    image_column: str = "image",
    label_column: str = "label",
    reduce_labels: bool = False,
    limit: int | None = None,
    resolution_px: int = 128,
    scenes: int | None = None,
    scene_options: dict | None = None,
) -> "MaskSource | PaintedSource":
    """One split of a data set, its pictures and masks.

    dataset_name: "scenes" or "scenes-sample" (painted as they are asked for, from the emoji build or the bundled
    sample; split is one of `scenes.SETS`; resolution_px and scene_options are `Scenes`'s), a folder, or a Hub id.
    reduce_labels: 0 in the masks means no answer, and k the class k - 1 of id2label, as in ADE20K.
    limit: at most that many, evenly spread; scenes: how many there are, where they are painted. Where there is no
    "validation", a tenth of "train" is.

    Raises DataError.
    """
    if dataset_name in SCENES:
        length = scenes if limit is None else limit
        options: dict = {"length": length} if length is not None else {}
        options |= {"dataset_name": SCENES[dataset_name], "resolution_px": resolution_px, **(scene_options or {})}
        return PaintedSource(Scenes(split, **options), dataset_name)
    split_of = open_split(dataset_name, split, config_name=dataset_config_name, image_column=image_column, limit=limit)
    split_of = with_masks(split_of, label_column)
    colours = read_colours(split_of.where, split_of.folder) if split_of.folder else None
    id2label = _read_id2label(split_of.where, split_of.folder, reduce_labels, colours)
    found = by_colour(split_of.where, colours, id2label) if colours else None
    return MaskSource(split_of, image_column, label_column, id2label, reduce_labels, dataset_name, found)


def with_masks(split: Split, column: str) -> Split:
    """The split with the column's masks not decoded. Raises DataError where it holds none."""
    import datasets

    advice = (
        'In a folder, metadata.jsonl names them: {"file_name": "images/1.jpg", "label_file_name": "masks/1.png"}; or '
        "they lie in masks/ beside images/, by the same names. Or set --label_column."
    )
    if column not in split.data.column_names:
        named = choices(column, split.data.column_names, "It has")
        raise DataError(f"{split.where} has no column '{column}' of masks. {named} {advice}")
    if not isinstance(split.data.features[column], datasets.Image):
        raise DataError(f"{split.where}: column '{column}' holds {split.data.features[column]}, no masks. {advice}")
    return dataclasses.replace(split, data=split.data.cast_column(column, datasets.Image(decode=False)))


class PaintedSource:
    """Scenes as a source of masks; see `MaskSource`. `scenes` paints them, and knows their objects."""

    reduce_labels, colours = False, None

    def __init__(self, scenes: Scenes, name: str):
        self.names, self.sizes, self.skipped, self.digests = [], [], [], []  # a scene has no file that could be wrong
        self.sources = None
        self.scenes, self.name, self.facts = scenes, f"{name}, {scenes.which}", facts_of(name)
        self.id2label = dict(enumerate(scenes.label_names))
        self.data_hash, self.licenses = scenes.data_hash, scenes.licenses

    def __len__(self) -> int:
        return len(self.scenes)

    def pair(self, index: int) -> tuple[Image.Image, np.ndarray]:
        """Picture and mask of one scene, painted once."""
        scene = self.scenes.scene(index)
        return scene.image, scene.mask.astype(np.int64)

    def picture(self, index: int) -> Image.Image:
        return self.pair(index)[0]

    def mask(self, index: int) -> np.ndarray:
        return self.pair(index)[1]

    raw_mask = mask

    def palette(self, index: int) -> dict[bytes, int]:
        return {}

    def reduced(self, raw: np.ndarray) -> np.ndarray:
        return raw

    def preload(self) -> None:
        """Nothing to do: scenes are painted when asked for."""


class MaskSource:
    """Pictures of one split, each with the class of every pixel; see `open_masks`.

    names: what to call each in messages. id2label: {0: name, 1: name, …}. data_hash: sha256 of pictures, masks and
    classes. sizes: ((width, height) of the upright picture, of its mask) of each. licenses: what the column "license"
    says. sources: what the column "source" says of each, the set that a picture is from; None without one.
    skipped: what was left out because picture or mask cannot be read; more than 5 % raise DataError. digests: sha256
    of the file of each picture, and then of its mask. colours: what colours of masks mean, None where ids stand there.
    """

    def __init__(self, split: Split, image_column, label_column, id2label, reduce_labels, dataset_name: str, colours):
        self.name, self.id2label, self.reduce_labels, self.colours = split.where, id2label, reduce_labels, colours
        self._dataset_name, self._columns, self._decoded = dataset_name, [image_column, label_column], None
        self._rows = dataclasses.replace(split, data=split.data.select_columns(self._columns))
        what = ("pictures or masks", "with unreadable files")
        self._rows, good, found, self.skipped = readable(self._rows, self._glance, *what)
        self.names, data = self._rows.names, split.data.select(good)
        self.sizes = [sizes for sizes, _ in found]
        self.licenses = licenses(data)
        self.sources = list(data["source"]) if "source" in data.column_names else None
        self.digests = [digest for _, digest in found]
        content = hashlib.sha256(json.dumps([id2label, reduce_labels]).encode())
        content.update(b"" if colours is None else colours.rgb.tobytes() + colours.ids.tobytes())
        content.update(b"".join(self.digests))
        self.data_hash = content.hexdigest()

    @property
    def facts(self) -> Facts:
        """What the data set says of itself. Raises DataError where its card can't be read."""
        return facts_of(self._dataset_name)

    def __len__(self) -> int:
        return len(self.names)

    def picture(self, index: int) -> Image.Image:
        """The picture, upright, RGB; transparent parts lie on white."""
        if self._decoded is not None:
            return Image.fromarray(self._decoded[index][0])
        return on_ground(decode(self._bytes(index, 0)), (255, 255, 255))

    def mask(self, index: int) -> np.ndarray:
        """Class ids int64 (H, W), 255 where there is no answer. Raises DataError where the file is no mask."""
        if self._decoded is not None:
            return self._decoded[index][1].astype(np.int64)
        return self.reduced(self.raw_mask(index))

    def pair(self, index: int) -> tuple[Image.Image, np.ndarray]:
        return self.picture(index), self.mask(index)

    def raw_mask(self, index: int) -> np.ndarray:
        """Class ids as they stand in the file of the mask, int64 (H, W). Raises DataError."""
        return read_mask(self._bytes(index, 1), self.colours)

    def palette(self, index: int) -> dict[bytes, int]:
        """{colour: index} of the palette that a mask is shown by; {} where colours or none say what is what."""
        return {} if self.colours else palette_of(self._bytes(index, 1))

    def preload(self) -> None:
        """Decode everything once and keep it, if that takes no more than 2 GiB."""
        if self._decoded is None and sum(4 * width * height for (width, height), _ in self.sizes) <= PRELOAD_BYTES:
            with ThreadPoolExecutor(THREADS) as pool:
                self._decoded = list(pool.map(self._decode, range(len(self))))

    def _decode(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        try:
            return np.asarray(self.picture(index)), self.mask(index).astype(np.uint8)
        except DataError as error:
            raise DataError(f"{self.name}, {self.names[index]}: {error}.") from error

    def reduced(self, raw: np.ndarray) -> np.ndarray:
        """Class ids of what stands in the file: the same, or one less under --reduce_labels."""
        if not self.reduce_labels:
            return raw
        return np.where((raw == 0) | (raw == IGNORE), IGNORE, raw - 1)

    def _bytes(self, index: int, which: int) -> bytes:
        return file_of(self._rows, index, self._columns[which])

    def _glance(self, index: int) -> tuple | str:
        """Sizes and sha256 of a picture and its mask, or which of them cannot be read."""
        sizes, digest = [], b""
        for which, word in enumerate(("picture", "mask")):
            try:
                content = self._bytes(index, which)
                with Image.open(io.BytesIO(content), formats=formats()) as image:
                    turned = which == 0 and image.getexif().get(ORIENTATION, 1) >= 5
                    sizes.append(image.size[::-1] if turned else image.size)
                    if image.format == "PNG" and which == 1:
                        image.verify()  # its checksums say whether it is whole
                    else:
                        decode(content, draft=which == 0)
            except DataError:
                raise
            except Exception:  # PIL raises a dozen kinds, struct.error and SyntaxError among them, for broken files
                return word
            digest += hashlib.sha256(content).digest()
        return tuple(sizes), digest


# ---------------------------------------------------------------------------------------------------------------------
# The check


def check(source: MaskSource | PaintedSource, *, every_class: bool = True) -> dict[int, int]:
    """How many pixels of each class id were seen (255 too), after nothing was found wrong. To be run before step 0.

    The sizes of all masks are compared with their pictures; up to 500 are read, evenly spread, and more of them while a
    class is still missing. every_class: whether a class without a pixel is wrong, as it is in training.

    Raises DataError that lists what is wrong by file: sizes, masks in colours or unreadable, ids that id2label doesn't
    have, ids that start at 1, classes never seen.
    """
    problems = _wrong_sizes(source)
    counts, strange, raw_ids = Counter(), {}, set()  # pixels by id; {file: ids that are no class}; as in the files
    unread: dict[str, list[str]] = {}  # {what is wrong with masks: their files}
    palettes: dict[bytes, tuple[int, str]] = {}  # {colour: its index, in the file where it was seen first}
    for number, index in enumerate(_spread(len(source), also_the_rest=bool(source.sizes))):
        if number >= FULLY_READ and (not every_class or source.id2label.keys() <= counts.keys()):
            break
        try:
            raw = source.raw_mask(index)
        except DataError as error:
            unread.setdefault(str(error), []).append(source.names[index])
            continue
        for colour, k in source.palette(index).items():
            other, first = palettes.setdefault(colour, (k, source.names[index]))
            if other != k:
                said = (
                    f"the colour #{colour.hex()} is {other} in the palette of the mask of {first} and {k} here: "
                    f"{COLOURS} has to say which class each colour is"
                )
                unread.setdefault(said, []).append(source.names[index])
                break
        raw_ids.update(np.unique(raw).tolist())
        ids, pixels = np.unique(source.reduced(raw), return_counts=True)
        counts.update(dict(zip(ids.tolist(), pixels.tolist(), strict=True)))
        outside = [k for k in ids.tolist() if k not in source.id2label and k != IGNORE]
        if outside:
            strange[source.names[index]] = outside
    problems += [f"{some(files)}: {said}" for said, files in unread.items()]
    problems += _strange_ids(source, strange, raw_ids - {IGNORE})
    missing = [k for k in source.id2label if k not in counts]
    named = some([f"{k} ({source.id2label[k]})" for k in missing])
    if every_class and missing and not unread:
        hint = ""
        if missing == [1] and len(source.id2label) == 2 and IGNORE in counts:
            hint = (
                f"; {IGNORE} means no answer: if it is class 1 here, write 1 instead, or give the colours of both in "
                f"{COLOURS}"
            )
        elif source.reduce_labels:
            hint = "; --reduce_labels reads 0 as no answer and k as class k - 1: leave it away if the masks start at 0"
        problems.append(f"no pixel of class {named}: add pictures that show it, or take it out of id2label.json{hint}")
    if not counts.keys() - {IGNORE} and not problems:
        problems.append(f"no pixel has an answer: all are {IGNORE}, or of a colour without one")
    if problems:
        lines = problems[:LINES] + ([f"and {len(problems) - LINES} more"] if len(problems) > LINES else [])
        if source.skipped:
            lines.append(f"left out as unreadable: {some(source.skipped)}")
        apart = "\n  " if len(lines) > 1 else " "
        done = "trained on" if every_class else "measured"
        raise DataError(f"{source.name} cannot be {done}:{apart}" + "\n  ".join(lines))
    if missing:
        print(f"{source.name}: no pixel of class {named}: nothing is said of it")
    if changed := source.colours.changed if source.colours else []:
        print(
            f"{source.name}: {len(changed)} masks have colours that {COLOURS} doesn't, and took the nearest: "
            f"{np.mean(changed):.1%} of their pixels"
        )
    return dict(sorted(counts.items()))


def _spread(length: int, *, also_the_rest: bool) -> list[int]:
    """Up to FULLY_READ indices, evenly spread, and then, if asked for, all others."""
    first = [i * length // min(length, FULLY_READ) for i in range(min(length, FULLY_READ))]
    return first + (sorted(set(range(length)) - set(first)) if also_the_rest else [])


def _wrong_sizes(source) -> list[str]:
    problems = []
    for name, (picture, mask) in zip(source.names, source.sizes, strict=True):
        if picture != mask:
            lying = " (it lies on its side: save the mask upright)" if picture == mask[::-1] else ""
            problems.append(
                f"{name}: the picture is {picture[0]} × {picture[1]} px, its mask {mask[0]} × {mask[1]}{lying}"
            )
    return problems


def _strange_ids(source, strange: dict[str, list[int]], raw_ids: set[int]) -> list[str]:
    """A line for each set of ids that are no class, with the files; and what they look like."""
    if not strange:
        return []
    count = len(source.id2label)
    files = {}
    for name, ids in strange.items():
        files.setdefault(tuple(ids), []).append(name)
    problems = [
        f"{some(names)}: id {some(list(map(str, ids)))} in the mask, but id2label.json has 0 to {count - 1}"
        for ids, names in files.items()
    ]
    if max(raw_ids) == count and not source.reduce_labels:
        start = "the masks start at 1" if 0 not in raw_ids else "the masks have one id too many"
        problems.append(f"{start}: if 0 means no answer and k the class k - 1, set --reduce_labels")
    elif len(raw_ids) > 2 * count + 10:
        problems.append(
            "so many ids look like shades, not classes: save masks as PNG, without JPEG and without smoothing"
        )
    return problems


# ---------------------------------------------------------------------------------------------------------------------
# Finding and loading


def _read_id2label(where: str, folder: Path | None, reduce_labels: bool, colours: dict | None) -> dict[int, str]:
    """The classes of a data set, ids from 0 on; without the file those that have colours.

    Raises DataError that shows how to write the file.
    """
    example = 'such as {"0": "road", "1": "sky"}'
    if folder is None:
        from huggingface_hub import hf_hub_download

        try:
            path = Path(hf_hub_download(where, "id2label.json", repo_type="dataset"))
            files = Files((path.resolve().parent,))
        except Exception as error:  # of the network, of the Hub, of the cache
            raise DataError(f"{where} gave no id2label.json: {first_line(error)}") from error
    else:
        path, files = (folder / "id2label.json").absolute(), Files((folder.resolve(),))
        if not path.exists() and colours:
            return dict(enumerate(name for name in colours if name.lower() not in NO_ANSWER))
        if not path.exists():
            raise DataError(f"{where} has no id2label.json: write the names of the classes into it, {example}.")
    try:
        found = json.loads(files.read(path).decode("utf-8-sig"))
    except (DataError, OSError) as error:
        raise DataError(f"{where}: {first_line(error)}.") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: id2label.json is not JSON: {error}.") from error
    if isinstance(found, dict) and found and all(isinstance(v, int) for v in found.values()):
        raise DataError(f"{where}: id2label.json gives ids to names: turn it around, {example}.")
    try:
        id2label = {int(key): value for key, value in found.items() if int(key) != IGNORE}
    except (AttributeError, ValueError) as error:
        raise DataError(f"{where}: id2label.json has to be an object of ids and names, {example}.") from error
    for key, value in id2label.items():
        if not isinstance(value, str) or not value.strip():
            raise DataError(f"{where}: id2label.json gives id {key} the name {value!r}, not a text.")
    if reduce_labels and 0 not in id2label:  # as in the masks: the name of k is that of class k - 1
        id2label = {key - 1: value for key, value in id2label.items()}
    if sorted(id2label) != list(range(len(id2label))) or not id2label:
        hint = (
            " Ids that start at 1, with 0 for no answer, need --reduce_labels." if min(id2label, default=0) == 1 else ""
        )
        raise DataError(f"{where}: id2label.json has the ids {sorted(id2label)}, not 0, 1, 2, … without a gap.{hint}")
    twice = [name for name, count in Counter(id2label.values()).items() if count > 1]
    if twice:
        raise DataError(f"{where}: id2label.json has the name {twice[0]!r} twice: each class needs its own.")
    if not 2 <= len(id2label) <= IGNORE:
        raise DataError(
            f"{where}: id2label.json has {len(id2label)} class{'es' * (len(id2label) > 1)}, but masks tell from 2 to "
            f"{IGNORE} apart, the ground among them."
        )
    return {key: id2label[key] for key in sorted(id2label)}
