"""The world of a model: which pictures it was trained on, as a density that its folder carries (hub_models/worlds.py).

    python -m training.worlds runs/of_before/export --dataset_name my_pictures --kind "pictures of my garden"
    python -m training.worlds hub_models/weights/captioning/emoji --dataset_name emoji --painted 0.5 --kind drawings

Scripts that see pictures write it with every export; this is for weights of before. 2,000 training pictures are enough;
a fifth of them is kept back for the threshold. The mixture is scikit-learn's, by expectation maximisation (Dempster,
Laird and Rubin 1977). How often held-out pictures come home: docs/LOG.md.
"""

import argparse
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from hub_models import store, worlds
from hub_models.publish import packing
from training.data.boxes import BoxSource, PaintedBoxes
from training.data.masks import SCENES, MaskSource, PaintedSource, open_masks
from training.data.scenes import Scenes
from training.data.sources import Source, open_source

PARTS = 32  # of the mixture, at most: one for a hundred pictures
LEAST = 0.05  # deviation of a number within a part: histograms of a few pictures look too sure
PICTURES = 2000
KEPT_BACK = 5  # every fifth is for the threshold
OUTSIDE = 0.01  # share of a world's own pictures that lie below its threshold


def reference(pictures: Iterable[Image.Image], kind: str, *, seed: int = 0) -> worlds.World:
    """The world of training pictures of one kind, named in the plural. Raises ValueError where there are none."""
    from sklearn.mixture import GaussianMixture  # seconds, for which only a training waits

    numbers = np.stack([worlds.numbers_of(picture) for picture in pictures])  # (N, D)
    back = np.arange(len(numbers)) % KEPT_BACK == KEPT_BACK - 1
    fitted = numbers[~back] if len(numbers) > 1 else np.repeat(numbers, 2, axis=0)
    parts = max(1, min(PARTS, len(fitted) // 100))
    mixture = GaussianMixture(parts, covariance_type="diag", reg_covar=LEAST**2, random_state=seed).fit(fitted)
    world = worlds.World(kind, mixture.weights_, mixture.means_, np.sqrt(mixture.covariances_), 0.0)
    threshold = float(
        np.quantile([world.log_density(row) for row in (numbers[back] if back.any() else fitted)], OUTSIDE)
    )
    return worlds.World(kind, world.weights, world.means, world.deviations, threshold)


def some_of(
    source: Source | PaintedSource | MaskSource | BoxSource | PaintedBoxes, count: int = PICTURES
) -> Iterator[Image.Image]:
    """At most `count` pictures of a source, evenly spread over it."""
    length = len(source)
    for at in range(min(length, count)):
        yield source.picture(at * length // min(length, count))


def seen_of(source: Source, scenes: Scenes | None, painted: float) -> Iterator[Image.Image]:
    """Training pictures, of which a share in [0, 1] is painted scenes, where there are any."""
    count = round(painted * PICTURES) if scenes is not None else 0
    if scenes is not None:
        yield from (scenes.scene(at).image for at in range(min(count, len(scenes))))
    yield from some_of(source, PICTURES - count)


def pictures_of(dataset_name: str, split: str, count: int = PICTURES, *, painted: float = 0.0) -> Iterator[Image.Image]:
    """Pictures of a split of a data set, with masks or without, and painted scenes to the share `painted` in [0, 1]."""
    scenes = round(painted * count)
    if scenes:
        yield from some_of(open_masks("scenes", split=split, limit=scenes), scenes)
    if scenes < count:
        masked = dataset_name in SCENES or Path(dataset_name, "id2label.json").is_file()
        yield from some_of((open_masks if masked else open_source)(dataset_name, split=split), count - scenes)


def put(folder: Path, world: worlds.World) -> None:
    """Write a world into a folder of weights, which has a config; its manifest is written anew."""
    path = worlds.place_of(folder)
    if path is None:
        raise store.CheckpointError(f"{folder} has no {' and no '.join(worlds.FILES)}: it is no folder of weights")
    text = path.read_text(encoding="utf-8")
    indent = 2 if text.startswith('{\n  "') else 1  # as it is: libraries differ
    content = json.dumps(json.loads(text) | {worlds.KEY: world.to_json()}, indent=indent, ensure_ascii=False)
    path.write_text(content + "\n", encoding="utf-8")
    if (folder / store.MANIFEST).is_file():
        packing.write_manifest(folder)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="training.worlds", description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, nargs="+", help="folders of weights that were trained on these pictures")
    parser.add_argument("--dataset_name", required=True, help="as --dataset_name of the training scripts")
    parser.add_argument("--painted", type=float, default=0.0, help="share of painted scenes among them, in [0, 1]")
    parser.add_argument("--pictures", type=int, default=PICTURES, help="how many are looked at (default: %(default)s)")
    parser.add_argument("--kind", required=True, help='what they are, in the plural: "photographs"')
    args = parser.parse_args(argv)
    if not 0 <= args.painted <= 1:
        parser.error(f"--painted is a share in [0, 1], got {args.painted}")
    if args.pictures < 1:
        parser.error(f"--pictures must be at least 1, got {args.pictures}")
    world = reference(pictures_of(args.dataset_name, "train", args.pictures, painted=args.painted), args.kind)
    for folder in args.folder:
        put(folder, world)
        print(f"{folder}: a world of {args.kind}, {len(world.weights)} parts, threshold {world.threshold:.1f}")


if __name__ == "__main__":
    main()
