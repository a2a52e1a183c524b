"""Scenes painted from emoji, with the class of every pixel and the place of every object.

    scenes = Scenes("train")
    scenes.scene(7).image, scenes.scene(7).mask, scenes.scene(7).objects
    python -m training.data.scenes --materialise 1000 --set validation --output_dir build/data/scenes

One to six drawings, scaled, turned and overlapping, on a plain, graded, noisy or blurred-art ground. Scene i is a
function of (seed, set, i) alone. Four sets, whose scenes differ in what they are painted with:

    train, new_scenes    the training pictures; the two share no scene
    validation           pictures of concepts that are in no training picture
    unseen_style         OpenMoji's drawings of training concepts: a style that is never trained on

Letters: R side of a scene in pixels, N pictures to paint with, P their side.
"""

import hashlib
import json
import math
import random
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from string import Template
from typing import Literal

import numpy as np
import yaml
from PIL import Image

from training.data.art import inked, on_ground, recoloured
from training.data.emoji.tables import LABELS
from training.data.sources import DataError, open_source

CLASSES = ("background", *LABELS)  # what the emoji build gives; id 0 is the background, id k + 1 is label k
Which = Literal["train", "new_scenes", "validation", "unseen_style"]  # set, which has so many scenes, by default:
LENGTHS: dict[Which, int] = {"train": 1_000_000, "new_scenes": 1000, "validation": 1000, "unseen_style": 1000}
SETS = tuple(LENGTHS)
GROUNDS = {"plain": 0.3, "gradient": 0.25, "noise": 0.2, "art": 0.25}  # kind: probability
SIDE = (0.2, 0.8)  # an object's longer side, as a share of the scene's
LEAST_VISIBLE = 0.4  # share of an object's pixels that has to be seen; with less it is not painted
SOLID = 128  # from this alpha on a pixel belongs to the object
TEMPLATE = Path(__file__).with_name("scenes.md")  # of the card
VERSION = 1  # to be raised when the same numbers give other scenes


@dataclass(frozen=True)
class SceneObject:
    """One drawing in a scene, as far as it is seen. Coordinates in pixels, x to the right, y down."""

    name: str  # what it shows, "red apple"; the label's name where the source has no captions
    label: int  # class id, as in the mask
    box: tuple[int, int, int, int]  # left, top, right, bottom around the visible pixels; right and bottom exclusive
    centre: tuple[float, float]  # x, y: the mean of the visible pixels
    visible_px: int  # pixels of the mask that are this object's
    source_index: int  # its picture in the source
    z: int  # 0 is furthest back


@dataclass(frozen=True)
class Scene:
    """A painted picture with its truth."""

    image: Image.Image  # RGB (R, R)
    mask: np.ndarray  # uint8 (R, R), class ids
    objects: list[SceneObject]  # from back to front
    instances: np.ndarray  # uint8 (R, R), which object is seen: 0 for the ground, k + 1 for objects[k]


class Scenes:
    """Scenes of one set, painted when asked for. Map-style and stateless: scene i is a function of (seed, set, i).

    which: one of SETS. dataset_name: "emoji", "emoji-sample", or another source of drawings with alpha, labels and the
    splits "train" and "validation". length: how many there are; by default LENGTHS[which].
    ink, colour: a share of the objects whose edges are inked, and how far colours of single objects change (0 to 1, see
    `training.data.art`): shifts of style that help with drawings of another hand. Off by default, as in the test sets.

    label_names: "background", and the labels of the source. data_hash: sha256 of the pictures and all that was said
    here. Raises DataError where the source does.
    """

    def __init__(
        self,
        which: str = "train",
        *,
        dataset_name: str = "emoji",
        resolution_px: int = 128,
        seed: int = 0,
        length: int | None = None,
        max_objects: int = 6,
        ink: float = 0.0,
        colour: float = 0.0,
    ):
        if which not in SETS:
            raise DataError(f"There is no set of scenes '{which}'; choose one of: {', '.join(SETS)}.")
        if max_objects < 1:
            raise DataError(f"A scene has at least one object, got max_objects={max_objects}.")
        self.which, self.seed, self.resolution_px, self.max_objects = which, seed, resolution_px, max_objects
        self.length = LENGTHS[which] if length is None else length
        self.ink, self.colour = ink, colour
        self.source = open_source(dataset_name, split="train" if which == "new_scenes" else which)
        self.source.preload(round(0.75 * resolution_px))
        self.label_names = ["background", *self.source.label_names]
        self.licenses = self.source.licenses
        style = [ink, colour, GROUNDS, SIDE, LEAST_VISIBLE]
        facts = [VERSION, which, seed, resolution_px, self.length, max_objects, *style, self.source.data_hash]
        self.data_hash = hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def __len__(self) -> int:
        return self.length

    def scene(self, index: int) -> Scene:
        """Scene `index`, whatever was painted before. Raises IndexError."""
        if not 0 <= index < self.length:
            raise IndexError(f"scene {index} of {self.length}")
        rng, side = random.Random(f"{self.seed}/{self.which}/{index}"), self.resolution_px
        canvas = self._ground(rng)
        laid = self._lay(rng)
        mask, instances = np.zeros((2, side, side), np.uint8)  # (R, R) each
        objects = []
        for z, (picture, label, art, place, seen) in enumerate(laid):
            canvas.paste(art, place, art)
            mask[seen], instances[seen] = label, z + 1
            ys, xs = np.nonzero(seen)
            box = (int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1)
            centre = (float(xs.mean()), float(ys.mean()))
            objects.append(SceneObject(self._names[picture], label, box, centre, len(xs), picture, z))
        return Scene(canvas, mask, objects, instances)

    def _lay(self, rng: random.Random) -> list[tuple[int, int, Image.Image, tuple[int, int], np.ndarray]]:
        """What is painted, from back to front: source index, class id, art RGBA, left and top, seen pixels (R, R) bool.

        It is chosen from front to back, so that what would be hidden is known before it is painted.
        """
        side, spots, laid = self.resolution_px, [], []
        count = rng.randint(1, self.max_objects)
        covered = np.zeros((side, side), bool)  # by what lies in front
        for _ in range(count):
            label = rng.choice(self._painted)
            picture = rng.choice(self._of_label[label])
            art = self._art(picture, rng, count)
            spot = _free_spot(rng, spots)
            place = tuple(
                _inside(round(spot[axis] * side - art.size[axis] / 2), art.size[axis], side) for axis in (0, 1)
            )
            solid = np.asarray(art.getchannel("A")) >= SOLID
            seen = _within(solid, place, side) & ~covered
            if seen.sum() < max(1, LEAST_VISIBLE * solid.sum()):
                continue
            covered |= seen
            spots.append(spot)
            laid.append((picture, label + 1, art, place, seen))
        if not laid:  # one object that is a hair line can miss every pixel's middle
            return self._lay(rng)
        return laid[::-1]

    def _art(self, picture: int, rng: random.Random, count: int) -> Image.Image:
        """The drawing as it stands in the scene, RGBA: cut to its outline, scaled, perhaps restyled, turned."""
        art = self.source.picture(picture).crop(self._boxes[picture])
        if self.ink and rng.random() < self.ink:  # before scaling: lines are as wide as drawings are large
            art = inked(art, rng)
        low, high = SIDE
        crowd = min(count - 1, 8)  # the more there are, the smaller they are
        longer = rng.triangular(low, high - 0.04 * crowd, 0.5 - 0.03 * crowd) * self.resolution_px
        scale = longer / max(art.size)
        width, height = (max(1, round(length * scale)) for length in art.size)
        art = art.resize((width, height), Image.Resampling.BICUBIC)
        if self.colour:
            art = recoloured(art, self.colour, rng)
        angle = rng.uniform(-180, 180) if rng.random() < 0.08 else rng.gauss(0, 12)  # degrees
        art = art.crop((-2, -2, width + 2, height + 2))  # clear rim: turning blends with it, else edges were jagged
        return art.rotate(angle, Image.Resampling.BICUBIC, expand=True)

    def _ground(self, rng: random.Random) -> Image.Image:
        side = self.resolution_px
        (kind,) = rng.choices(list(GROUNDS), list(GROUNDS.values()))
        if kind == "plain":
            return Image.new("RGB", (side, side), _colour(rng))
        if kind == "art":
            art = self.source.picture(rng.choice(self._pictures)).rotate(rng.uniform(-180, 180))
            art = on_ground(art, _colour(rng)).resize([rng.randint(7, 14)] * 2, Image.Resampling.BOX)
            margin = rng.uniform(0, 0.25) * art.width
            zoom = (margin, margin, art.width - margin, art.height - margin)
            return art.resize((side, side), Image.Resampling.BICUBIC, box=zoom)
        field = _gradient(rng) if kind == "gradient" else _noise(rng)  # (h, w) in [0, 1]
        stops = np.array([_colour(rng) for _ in range(rng.randint(2, 3))], np.float32)  # (S, 3)
        at = np.linspace(0, 1, len(stops))
        colours = np.stack([np.interp(field, at, channel) for channel in stops.T], -1)  # (h, w, 3)
        ground = Image.fromarray(colours.astype(np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
        if kind == "noise" and rng.random() < 0.4:  # with grain
            grain = np.frombuffer(rng.randbytes(side * side), np.uint8).reshape(side, side, 1).astype(np.float32)
            strength = rng.uniform(0.03, 0.18)
            ground = Image.fromarray((np.asarray(ground) + (grain - 128) * strength).clip(0, 255).astype(np.uint8))
        return ground

    @cached_property
    def _names(self) -> list[str]:
        try:
            return self.source.column("name")
        except DataError:
            return [self.source.label_names[label] for label in self.source.labels]

    @cached_property
    def _boxes(self) -> list[tuple[int, int, int, int] | None]:
        """Around the outline of each drawing, with what is half transparent; None where nothing is solid."""
        boxes = []
        for index in range(len(self.source)):
            alpha = self.source.picture(index).getchannel("A")
            solid = np.asarray(alpha).max() >= SOLID
            boxes.append(alpha.point(lambda a: 255 * (a > 8)).getbbox() if solid else None)
        return boxes

    @cached_property
    def _pictures(self) -> list[int]:
        """What may be painted: drawings with something solid in them; OpenMoji's only of training concepts."""
        known = [True] * len(self.source)
        if self.which == "unseen_style":
            known = [split == "train" for split in self.source.column("concept_split")]
        return [i for i, box in enumerate(self._boxes) if box is not None and known[i]]

    @cached_property
    def _of_label(self) -> dict[int, list[int]]:
        """The pictures of each label that has any. Labels are drawn alike, however many pictures they have."""
        of_label = {}
        for i in self._pictures:
            of_label.setdefault(self.source.label(i), []).append(i)
        return of_label

    @cached_property
    def _painted(self) -> list[int]:
        return sorted(self._of_label)


def _within(solid: np.ndarray, place: tuple[int, ...], side: int) -> np.ndarray:
    """A drawing's pixels (h, w) on the scene (R, R), its left and top at `place`; what lies outside is cut."""
    left, top = place
    whole = np.zeros((side, side), bool)
    x, y = max(left, 0), max(top, 0)
    part = solid[y - top : side - top, x - left : side - left]
    whole[y : y + part.shape[0], x : x + part.shape[1]] = part
    return whole


def _inside(start: int, length: int, side: int) -> int:
    """The start moved so that no more than an eighth of the length lies beyond either edge."""
    return min(max(start, -length // 8), side - length + length // 8)


def _free_spot(rng: random.Random, spots: list[tuple[float, float]]) -> tuple[float, float]:
    """A place in the unit square, not at its rim; of three, the one furthest from the others."""
    drawn = [(rng.uniform(0.1, 0.9), rng.uniform(0.1, 0.9)) for _ in range(3)]
    return max(drawn, key=lambda spot: min((math.dist(spot, other) for other in spots), default=0))


def _colour(rng: random.Random) -> tuple[int, int, int]:
    """Any colour; white more often than others, and black."""
    kind = rng.random()
    if kind < 0.15:
        return (255, 255, 255)
    if kind < 0.2:
        grey = rng.randrange(32)
        return grey, grey, grey
    hue, saturation, value = rng.random(), rng.uniform(0.05, 0.85), rng.uniform(0.3, 1)
    channels = ((hue * 6 + shift) % 6 for shift in (5, 3, 1))
    red, green, blue = (round(255 * value * (1 - saturation * max(0, min(k, 4 - k, 1)))) for k in channels)
    return red, green, blue


def _gradient(rng: random.Random, size: int = 32) -> np.ndarray:
    """A rise from 0 to 1, (size, size): along a line of any direction, or away from a point."""
    y, x = np.mgrid[0:size, 0:size] / (size - 1)
    if rng.random() < 0.7:
        angle = rng.uniform(0, 2 * math.pi)
        field = math.cos(angle) * x + math.sin(angle) * y
    else:
        field = np.hypot(x - rng.random(), y - rng.random())
    return (field - field.min()) / np.ptp(field)


def _noise(rng: random.Random, size: int = 64) -> np.ndarray:
    """Smooth noise in [0, 1], (size, size): three octaves."""
    field, cells = np.zeros((size, size), np.float32), rng.randint(3, 7)
    for octave in range(3):
        side = cells << octave
        grid = Image.frombytes("L", (side, side), rng.randbytes(side**2))
        field += np.asarray(grid.resize((size, size), Image.Resampling.BICUBIC), np.float32) / 2**octave
    return (field - field.min()) / np.ptp(field)


# ---------------------------------------------------------------------------------------------------------------------
# As files


@dataclass(frozen=True)
class Config:
    """Paints scenes into an imagefolder that `datasets` loads: pictures, masks, metadata.jsonl, id2label.json."""

    materialise: int  # scenes per set
    output_dir: Path = Path("build/data/scenes")
    set: tuple[Which, ...] = SETS  # which sets
    dataset_name: str = "emoji"  # what to paint with
    resolution: int = 128  # side of a scene, pixels
    seed: int = 0
    max_objects: int = 6
    push_to_hub: bool = False
    hub_dataset_id: str | None = None  # "org/name" to push to
    hub_private: bool = False  # create the repository as a private one


def materialise(scenes: Scenes, folder: Path) -> None:
    """Write every scene into folder/<set>: images/, masks/ (ids as grey values) and metadata.jsonl with the objects.

    The set's folder is made anew; id2label.json beside it names the ids.
    """
    part = folder / scenes.which
    shutil.rmtree(part, ignore_errors=True)
    for name in ("images", "masks"):
        (part / name).mkdir(parents=True)
    with (part / "metadata.jsonl").open("w", encoding="utf-8") as metadata:
        for index in range(len(scenes)):
            scene, name = scenes.scene(index), f"{index:06d}.png"
            scene.image.save(part / "images" / name)
            Image.fromarray(scene.mask).save(part / "masks" / name)
            row = {"file_name": f"images/{name}", "label_file_name": f"masks/{name}"}
            row["objects"] = [
                {"name": o.name, "label": scenes.label_names[o.label], "box": o.box} for o in scene.objects
            ]
            metadata.write(json.dumps(row) + "\n")
    id2label = {str(k): name for k, name in enumerate(scenes.label_names)}
    (folder / "id2label.json").write_text(json.dumps(id2label, indent=1) + "\n", encoding="utf-8")


def card(painted: list[Scenes]) -> str:
    """The data set card: the sets in it, and the licences of the art."""
    side = painted[0].resolution_px
    licenses = sorted({name for scenes in painted for name in scenes.licenses})
    openmoji = any(scenes.which == "unseen_style" for scenes in painted)
    front = {
        "license": [name.lower() for name in licenses] or "other",
        "pretty_name": "Scenes painted from emoji",
        "task_categories": ["image-segmentation"],
        "configs": [
            {"config_name": "default", "data_files": [{"split": s.which, "path": f"{s.which}/**"} for s in painted]}
        ],
    }
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        front=yaml.safe_dump(front, sort_keys=False, allow_unicode=True).strip(),
        side=side,
        sets="\n".join(f"| {scenes.which} | {len(scenes):,} |" for scenes in painted),
        openmoji=", the set unseen_style from OpenMoji (CC BY-SA 4.0)" if openmoji else "",
    )


def main(cfg: Config) -> None:
    """Paint the sets; raises SystemExit with one line where the data are not there."""
    if cfg.push_to_hub and not cfg.hub_dataset_id:
        raise SystemExit("--push_to_hub needs --hub_dataset_id name/data-set.")
    painted = []
    for which in cfg.set:
        try:
            scenes = Scenes(which, dataset_name=cfg.dataset_name, resolution_px=cfg.resolution, seed=cfg.seed,
                            length=cfg.materialise, max_objects=cfg.max_objects)  # fmt: skip
        except DataError as error:
            raise SystemExit(f"error: {error}") from None
        materialise(scenes, cfg.output_dir)
        print(f"{which}: {len(scenes):,} scenes in {cfg.output_dir / which}")
        painted.append(scenes)
    (cfg.output_dir / "README.md").write_text(card(painted), encoding="utf-8")
    if cfg.push_to_hub and cfg.hub_dataset_id:
        from training import publish

        publish.push_export(cfg.output_dir, cfg.hub_dataset_id, private=cfg.hub_private, repo_type="dataset")


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Config, description=__doc__, use_underscores=True))
