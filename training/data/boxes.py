"""Pictures with a box for every thing, checked before training: painted scenes, a folder, or of the Hub.

    source = open_boxes("path/to/pictures", split="train")
    picture, things = source.pair(0)
    things.boxes, things.labels, source.label_names

A data set is a folder with COCO's JSON files (`training.data.coco`), or has a column of pictures and one of their
objects (`training.data.things`), as parquet files and the Hub have it. As a folder:

    train/metadata.jsonl   {"file_name": "1.jpg", "objects": {"bbox": [[10, 20, 30, 40]], "categories": ["cat"]}}
    train/1.jpg, …, validation/…  (or no validation: then a tenth of train is it)

With masks of things, too, where they are wanted: polygons or run lengths under "segmentation", as COCO has them.

Whatever is wrong is a `DataError` that names the files and what to do. A picture may show nothing.
"""

import dataclasses
import hashlib
import io
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from hub_models.pictures import formats
from training.data import coco, outlines
from training.data.art import on_ground
from training.data.facts import Facts, facts_of
from training.data.files import MAX_SKIPPED_SHARE, DataError, some
from training.data.masks import ORIENTATION, PRELOAD_BYTES, SCENES
from training.data.scenes import Scenes
from training.data.sources import decode, file_of, licenses
from training.data.split import THREADS, Split, open_split, readable
from training.data.things import Things, things_of


def open_boxes(
    dataset_name: str = "scenes",
    *,
    split: str,
    dataset_config_name: str | None = None,
    image_column: str = "image",
    objects_column: str = "objects",
    limit: int | None = None,
    resolution_px: int = 128,
    scenes: int | None = None,
    scene_options: dict | None = None,
    masks: bool = False,
) -> "BoxSource | PaintedBoxes":
    """One split of a data set, its pictures and the things in them.

    dataset_name: "scenes" or "scenes-sample" (painted as they are asked for, from the emoji build or the bundled
    sample; split is one of `scenes.SETS`; resolution_px and scene_options are `Scenes`'s), a folder, or a Hub id.
    limit: at most that many, evenly spread; scenes: how many there are, where they are painted. masks: whether things
    need masks beside their boxes; scenes have them always. Where there is no "validation", a tenth of "train" is.

    Raises DataError.
    """
    if dataset_name in SCENES:
        length = scenes if limit is None else limit
        options: dict = {"length": length} if length is not None else {}
        options |= {"dataset_name": SCENES[dataset_name], "resolution_px": resolution_px, **(scene_options or {})}
        return PaintedBoxes(Scenes(split, **options), dataset_name)
    split_of = open_split(
        dataset_name, split, config_name=dataset_config_name, image_column=image_column, limit=limit,
        reader=coco.read_masks if masks else coco.read,
    )  # fmt: skip
    return BoxSource(split_of, image_column, objects_column, dataset_name, split, masks)


class PaintedBoxes:
    """Scenes as a source of boxes; see `BoxSource`. Their things have masks, too."""

    def __init__(self, scenes: Scenes, name: str):
        self.names, self.digests, self.skipped = [], [], []  # a scene has no file that could be wrong
        self.scenes, self.name, self.facts = scenes, f"{name}, {scenes.which}", facts_of(name)
        self.label_names = scenes.label_names[1:]  # the ground is no thing
        self.data_hash, self.licenses = scenes.data_hash, scenes.licenses
        self.most_things = scenes.max_objects

    def __len__(self) -> int:
        return len(self.scenes)

    def picture(self, index: int) -> Image.Image:
        return self.pair(index)[0]

    def pair(self, index: int) -> tuple[Image.Image, Things]:
        """A scene and what is in it, from back to front; painted once."""
        scene = self.scenes.scene(index)
        boxes = np.array([thing.box for thing in scene.objects], np.float32)  # (N, 4)
        labels = np.array([thing.label - 1 for thing in scene.objects], np.int64)
        numbers = np.arange(1, len(labels) + 1, dtype=np.uint8)
        return scene.image, Things(boxes, labels, scene.instances[None] == numbers[:, None, None])

    def preload(self) -> None:
        """Nothing to do: scenes are painted when asked for."""


class BoxSource:
    """Pictures of one split, each with the things in it; see `open_boxes`.

    names: what to call each in messages. label_names: the classes. things: of each picture; most_things: how many one
    shows at most. sizes: (width, height) of each upright picture. data_hash: sha256 of pictures, boxes and classes.
    digests: sha256 of each picture's file. skipped: what was left out because it cannot be read; more than 5 % raise
    DataError. licenses: what the column "license" says. Things that `pair` gives have masks, where those are wanted.
    """

    def __init__(
        self, split: Split, image_column: str, objects_column: str, dataset_name: str, which: str, masks: bool = False
    ):
        self.name, self._dataset_name, self._image_column = split.where, dataset_name, image_column
        self._decoded: list[np.ndarray] | None = None
        rows = dataclasses.replace(split, data=split.data.select_columns([image_column]))
        self._rows, good, found, self.skipped = readable(rows, self._glance_of(rows), "pictures", "unreadable pictures")
        self.names, data = self._rows.names, split.data.select(good)
        self.sizes, self.digests = [size for size, _ in found], [digest for _, digest in found]
        _compare_sizes(split.where, data, self.names, self.sizes)
        self.things, self.label_names = things_of(split, objects_column, self.sizes, good.tolist(), masks)
        self.most_things = max(map(len, self.things))
        self.licenses = licenses(data)
        _say_what_is_there(self, which)
        content = hashlib.sha256(json.dumps(self.label_names).encode() + b"".join(self.digests))
        for of_one in self.things:
            content.update(of_one.boxes.astype("<f4").tobytes() + of_one.labels.astype("<i8").tobytes() + b"|")
            content.update(b"|".join(of_one.packed or []))
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
            return Image.fromarray(self._decoded[index])
        return on_ground(decode(file_of(self._rows, index, self._image_column)), (255, 255, 255))

    def pair(self, index: int) -> tuple[Image.Image, Things]:
        things = self.things[index]
        if things.packed is not None:
            things = dataclasses.replace(things, masks=outlines.unpacked(things.packed, self.sizes[index]))
        return self.picture(index), things

    def preload(self) -> None:
        """Decode everything once and keep it, if that takes no more than 2 GiB."""
        if self._decoded is None and sum(3 * width * height for width, height in self.sizes) <= PRELOAD_BYTES:
            with ThreadPoolExecutor(THREADS) as pool:
                self._decoded = list(pool.map(lambda index: np.asarray(self.picture(index)), range(len(self))))

    def _glance_of(self, rows: Split):
        """A function of a row's number: the size and sha256 of its picture, or "" where it cannot be read."""

        def glance(index: int) -> tuple | str:
            try:
                content = file_of(rows, index, self._image_column)
                with Image.open(io.BytesIO(content), formats=formats()) as image:
                    turned = image.getexif().get(ORIENTATION, 1) >= 5
                    size = image.size[::-1] if turned else image.size
                decode(content, draft=True)
            except DataError:
                raise
            except Exception:  # PIL raises a dozen kinds, struct.error and SyntaxError among them, for broken files
                return ""
            return size, hashlib.sha256(content).digest()

        return glance


def _compare_sizes(where: str, data, names: list[str], sizes: list[tuple[int, int]]) -> None:
    """Raise DataError where more than 5 % of the pictures have another size than the data say, else say which do."""
    if not {"width", "height"} <= set(data.column_names):
        return
    stated = list(zip(data["width"], data["height"], strict=True))
    faults: coco.Faults = {}
    for name, said, size in zip(names, stated, sizes, strict=True):
        if None not in said and tuple(said) != size:
            lying = " (it lies on its side: save it upright)" if tuple(said) == size[::-1] else ""
            faults.setdefault(
                f"the picture is {size[0]} × {size[1]} px, but its boxes are for {said[0]} × {said[1]}{lying}", []
            ).append(name)
    many = sum(map(len, faults.values()))
    if many > MAX_SKIPPED_SHARE * len(names):
        raise DataError(f"{where}: boxes are for pictures of other sizes:{coco.listed_faults(faults)}")
    if many:
        print(f"{where}: boxes of {many} pictures are for other sizes:{coco.listed_faults(faults)}")


def _say_what_is_there(source: BoxSource, which: str) -> None:
    """Print which pictures show nothing and which classes nothing shows. Raises DataError where all show nothing.

    which: the split's name.
    """
    bare = [name for name, things in zip(source.names, source.things, strict=True) if not len(things)]
    if len(bare) == len(source):
        raise DataError(
            f"{source.name}, split '{which}': no picture has an object: draw boxes around some things of it first."
        )
    if bare:
        print(f"{source.name}: {len(bare)} of {len(source)} pictures show none of the things: {some(bare)}")
    counts = np.bincount(np.concatenate([t.labels for t in source.things]), minlength=len(source.label_names))
    if none := [name for name, count in zip(source.label_names, counts, strict=True) if not count]:
        print(f"{source.name}: class {some(none)} has no box: nothing is said of it")
