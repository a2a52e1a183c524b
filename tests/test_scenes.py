"""Painted scenes: the same whatever else is painted, exact masks, true objects; and the shipped ones."""

import io
import json
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw

from training.data import art, scenes
from training.data.emoji.tables import LABELS
from training.data.masks import check, open_masks
from training.data.scenes import CLASSES, Scenes, materialise
from training.data.sources import DataError

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "apps" / "examples" / "segmentation"
COLOURS = [(255, 0, 0), (0, 0, 255)]  # of the drawings of each class in `drawings`


@pytest.fixture(scope="module")
def sample() -> Scenes:
    return Scenes("train", dataset_name="emoji-sample", resolution_px=64)


def drawings(folder: Path, colours=COLOURS) -> str:
    """A data set of one-coloured shapes with hard alpha, whose class is their colour; the ground below is black."""
    import datasets

    pictures, labels = [], []
    for k in range(20):
        picture = Image.new("RGBA", (60, 60), (0, 0, 0, 0))
        pen, fill = ImageDraw.Draw(picture), (*colours[k % 2], 255)
        if k % 3:
            pen.rectangle([8 + k % 5, 12, 50, 45], fill=fill)
        else:
            pen.ellipse([6, 10, 50, 40 + k % 7], fill=fill)
        file = io.BytesIO()
        picture.save(file, "PNG")
        pictures.append({"bytes": file.getvalue(), "path": f"{k}.png"})
        labels.append(k % 2)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["red", "blue"])})
    data = datasets.Dataset.from_dict({"image": pictures, "label": labels}, features=features)
    (folder / "data").mkdir(parents=True)
    data.to_parquet(str(folder / "data" / "train-00000-of-00001.parquet"))
    return str(folder)


def same(a, b) -> bool:
    return a.image.tobytes() == b.image.tobytes() and np.array_equal(a.mask, b.mask) and a.objects == b.objects


def test_a_scene_is_a_function_of_seed_set_and_index(sample):
    again = Scenes("train", dataset_name="emoji-sample", resolution_px=64, length=10)
    random.seed(5)
    backwards = {i: again.scene(i) for i in (9, 4, 0)}
    assert all(same(sample.scene(i), backwards[i]) for i in (0, 4, 9))
    others = [
        Scenes("train", dataset_name="emoji-sample", resolution_px=64, seed=1),
        Scenes("new_scenes", dataset_name="emoji-sample", resolution_px=64),
    ]
    for other in others:
        assert not any(same(sample.scene(i), other.scene(i)) for i in range(5))
        assert other.data_hash != sample.data_hash
    assert again.data_hash != sample.data_hash
    assert Scenes("train", dataset_name="emoji-sample", resolution_px=64).data_hash == sample.data_hash


def test_sizes_types_and_names(sample):
    assert tuple(sample.label_names) == CLASSES == ("background", *LABELS)
    assert len(sample) == 1_000_000
    scene = sample.scene(len(sample) - 1)
    assert (scene.image.mode, scene.image.size, scene.mask.shape, scene.mask.dtype) == (
        "RGB",
        (64, 64),
        (64, 64),
        "uint8",
    )
    for index in (-1, len(sample)):
        with pytest.raises(IndexError):
            sample.scene(index)
    with pytest.raises(DataError, match="unseen_style"):
        Scenes("test", dataset_name="emoji-sample")


def test_objects_are_what_the_mask_shows(sample):
    names, counts = sample.source.column("name"), []
    for index in range(60):
        scene = sample.scene(index)
        counts.append(len(scene.objects))
        assert sum(o.visible_px for o in scene.objects) == (scene.mask > 0).sum()
        assert [o.z for o in scene.objects] == list(range(len(scene.objects)))
        for o in scene.objects:
            assert (o.name, o.label) == (names[o.source_index], sample.source.label(o.source_index) + 1)
            if [p.label for p in scene.objects].count(o.label) == 1:
                ys, xs = np.nonzero(scene.mask == o.label)
                assert o.box == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
                assert o.centre == pytest.approx((xs.mean(), ys.mean()))
                assert o.visible_px == len(xs)
    assert min(counts) == 1 and 4 <= max(counts) <= 6
    assert {o.label for i in range(60) for o in sample.scene(i).objects} == set(range(1, 13))


def test_masks_agree_with_pixels(tmp_path, monkeypatch):
    """One-coloured shapes on white: the colour of a pixel says what it is."""
    monkeypatch.setattr(scenes, "_colour", lambda rng: (255, 255, 255))
    monkeypatch.setattr(scenes, "GROUNDS", {"plain": 1.0})
    many = Scenes("train", dataset_name=drawings(tmp_path / "shapes"))
    assert many.label_names == ["background", "red", "blue"]
    for index in range(30):
        scene = many.scene(index)
        pixels = np.asarray(scene.image).astype(int)
        edge = np.ones(scene.mask.shape, bool)
        for value, colour in enumerate([(255, 255, 255), *COLOURS]):
            pure = (pixels == colour).all(-1)
            assert (scene.mask[pure] == value).all()
            edge &= ~pure
        assert edge.mean() < 0.12
        assert scene.objects[0].name in ("red", "blue")  # without names, the class's
    one = Scenes("train", dataset_name=str(tmp_path / "shapes"), max_objects=1)
    for index in range(30):
        scene = one.scene(index)
        pixels = np.asarray(scene.image).astype(float)
        coverage = 1 - pixels[..., 1] / 255  # neither colour has green: alpha itself
        sure = abs(coverage - 0.5) > 0.01
        assert ((scene.mask > 0) == (coverage > 0.5))[sure].all()
        longer = max(
            scene.objects[0].box[2] - scene.objects[0].box[0], scene.objects[0].box[3] - scene.objects[0].box[1]
        )
        assert longer <= 0.8 * 128 * 2**0.5 + 2


def test_no_fringes(tmp_path, monkeypatch):
    """A white drawing, black where it is transparent, can't be seen on white."""
    monkeypatch.setattr(scenes, "_colour", lambda rng: (255, 255, 255))
    monkeypatch.setattr(scenes, "GROUNDS", {"plain": 1.0})
    white = Scenes("train", dataset_name=drawings(tmp_path / "white", [(255, 255, 255)] * 2))
    for index in range(10):
        scene = white.scene(index)
        assert np.asarray(scene.image).min() >= 254 and scene.mask.any()


def test_grounds_differ(sample):
    corners = {np.asarray(sample.scene(i).image)[0, 0].tobytes() for i in range(40)}
    assert len(corners) > 20


def test_every_object_is_seen(tmp_path):
    crowded = Scenes("train", dataset_name=drawings(tmp_path / "shapes"), max_objects=20, resolution_px=64)
    for index in range(20):
        for o in crowded.scene(index).objects:
            assert o.visible_px >= 25  # two fifths of the smallest shape there is
            assert max(o.box[2] - o.box[0], o.box[3] - o.box[1]) >= 5


def test_the_unseen_style_shows_known_concepts_only(tmp_path, monkeypatch):
    parts = [pq.read_table(f) for f in sorted((ROOT / "tests/data/emoji-sample/data").glob("*.parquet"))]
    table = pa.concat_tables(parts)
    (tmp_path / "emoji-unseen" / "data").mkdir(parents=True)
    pq.write_table(table, tmp_path / "emoji-unseen" / "data" / "unseen_style-00000-of-00001.parquet")
    monkeypatch.setenv("VITRAIL_DATA", str(tmp_path))
    unseen = Scenes("unseen_style", resolution_px=32)
    split = unseen.source.column("concept_split")
    assert "validation" in split
    assert {split[o.source_index] for i in range(100) for o in unseen.scene(i).objects} == {"train"}
    with pytest.raises(DataError, match="no split 'unseen_style'"):
        Scenes("unseen_style", dataset_name="emoji-sample")


def test_styles_shift_only_where_asked(sample):
    shifted = Scenes("train", dataset_name="emoji-sample", resolution_px=64, ink=1.0, colour=0.3)
    assert shifted.data_hash != sample.data_hash
    plain = sample.source.picture(3)
    inked = art.inked(plain, random.Random(0))
    assert inked.getchannel("A").tobytes() == plain.getchannel("A").tobytes()
    assert np.asarray(inked)[..., :3].mean() < np.asarray(plain)[..., :3].mean()
    turned = art.recoloured(plain, 0.3, random.Random(0))
    assert turned.getchannel("A").tobytes() == plain.getchannel("A").tobytes()
    seen = np.asarray(plain)[..., 3] > 0
    still = np.asarray(art.recoloured(plain, 0.0, random.Random(0))).astype(int) - np.asarray(plain).astype(int)
    assert abs(still[seen]).max() <= 6  # what the way through HSV costs
    assert abs(np.asarray(turned).astype(int) - np.asarray(plain).astype(int))[seen].max() > 10


def test_materialised_scenes_are_a_data_set(tmp_path):
    folder = tmp_path / "scenes"
    cfg = scenes.Config(6, output_dir=folder, set=("train", "validation"), dataset_name="emoji-sample", resolution=48)
    scenes.main(cfg)
    for which in cfg.set:
        painted = Scenes(which, dataset_name="emoji-sample", resolution_px=48, length=6)
        source = open_masks(str(folder), split=which)
        assert len(source) == 6 and source.id2label == dict(enumerate(CLASSES))
        for i in range(6):
            scene = painted.scene(i)
            assert source.picture(i).tobytes() == scene.image.tobytes()
            assert np.array_equal(source.mask(i), scene.mask)
        check(source, every_class=False)
    rows = [json.loads(line) for line in (folder / "validation" / "metadata.jsonl").read_text().splitlines()]
    assert [o["name"] for o in rows[0]["objects"]] == [o.name for o in painted.scene(0).objects]
    assert "cc-by-4.0" in (folder / "README.md").read_text()
    painted.length = 2
    materialise(painted, folder)
    assert len(list((folder / "validation" / "masks").iterdir())) == 2  # nothing of before is left
    with pytest.raises(SystemExit, match="no split 'unseen_style'"):
        scenes.main(scenes.Config(1, output_dir=folder, set=("unseen_style",), dataset_name="emoji-sample"))
    with pytest.raises(SystemExit, match="hub_dataset_id"):
        scenes.main(scenes.Config(1, push_to_hub=True))


def test_shipped_scenes_and_photographs():
    rows = json.loads((EXAMPLES / "index.json").read_text(encoding="utf-8"))
    painted = [row for row in rows if "mask" in row]
    photographs = [row for row in rows if "mask" not in row]
    assert len(painted) == 48 and len(photographs) >= 3
    cards = {f"card-{number}.png" for number in range(1, 7)}  # of the gallery's card, made of three of them
    assert {path.name for path in EXAMPLES.iterdir()} == {"index.json"} | cards | {
        row[key] for row in rows for key in ("file", "mask") if key in row
    }
    assert sum(path.stat().st_size for path in EXAMPLES.iterdir()) <= 1.5 * 2**20
    third_party = (ROOT / "THIRD_PARTY.md").read_text(encoding="utf-8")
    for row in painted:
        with Image.open(EXAMPLES / row["file"]) as picture, Image.open(EXAMPLES / row["mask"]) as mask:
            assert (picture.size, picture.mode, mask.size, mask.mode) == ((128, 128), "RGB", (128, 128), "P")
            ids = np.asarray(mask)
        assert {row["label_names"][k] for k in np.unique(ids)} == {"background", *(o["label"] for o in row["objects"])}
        assert all(o["license"] in ("Apache-2.0", "CC-BY-4.0", "MIT") for o in row["objects"])
    for row in photographs:
        with Image.open(EXAMPLES / row["file"]) as picture:
            assert max(picture.size) <= 640 and not picture.getexif()
        assert row["license"] in ("public domain", "CC0-1.0", "CC-BY-2.0")
        assert row["file"] in third_party


def test_shipped_scenes_are_what_the_painter_paints():
    if not (ROOT / "build" / "data" / "emoji").is_dir():
        pytest.skip("needs `make data`")
    rows = [row for row in json.loads((EXAMPLES / "index.json").read_text(encoding="utf-8")) if "mask" in row]
    painted = Scenes("validation")
    for row in [row for row in rows if row["set"] == "validation"][:8]:
        with Image.open(EXAMPLES / row["file"]) as picture:
            assert picture.tobytes() == painted.scene(row["scene"]).image.tobytes()


def test_a_folder_left_from_before_is_replaced(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "old.png").write_bytes(b"")
    materialise(Scenes("train", dataset_name="emoji-sample", resolution_px=32, length=1), tmp_path)
    assert not (tmp_path / "train" / "old.png").exists()
