"""training/data/boxes: things in scenes, in COCO's files and in `objects`, and what is wrong with them by file name."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.data import boxes, coco
from training.data.boxes import open_boxes
from training.data.files import DataError
from training.data.things import Things, cut_to

SIZE = (24, 16)  # width, height of the pictures
BOX = [2, 3, 8, 6]


def picture(path: Path, size=SIZE, number: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (number, 90, 200)).save(path)
    return path


def hub_folder(folder: Path, rows: list, splits=("train", "validation")) -> str:
    """A folder of pictures, of which metadata.jsonl has these `objects`."""
    for which, split in enumerate(splits):
        lines = []
        for number, objects in enumerate(rows):
            picture(folder / split / f"{number}.png", number=100 * which + number)
            lines.append(json.dumps({"file_name": f"{number}.png", "objects": objects}))
        (folder / split / "metadata.jsonl").write_text("\n".join(lines))
    return str(folder)


def objects(*named: tuple) -> dict:
    return {"bbox": [box for box, _ in named], "categories": [name for _, name in named]}


def coco_of(count: int = 3, notes: list | None = None, **images) -> dict:
    """A COCO file of pictures 0.png, …, each with one thing unless `notes` says what there is."""
    if notes is None:
        notes = [{"id": k, "image_id": k, "category_id": 3 + k % 2, "bbox": BOX, "iscrowd": 0} for k in range(count)]
    sizes = {"width": SIZE[0], "height": SIZE[1]} | images
    return {
        "images": [{"id": k, "file_name": f"{k}.png", **sizes} for k in range(count)],
        "annotations": notes,
        "categories": [{"id": 7, "name": "none"}, {"id": 3, "name": "dog"}, {"id": 4, "name": "cat"}],
    }


def roboflow(folder: Path, train=None, count: int = 3) -> Path:
    """Pictures with _annotations.coco.json beside them, in train/ and valid/."""
    for which, split in enumerate(("train", "valid")):
        for number in range(count):
            picture(folder / split / f"{number}.png", number=100 * which + number)
        said = coco_of(count) if train is None or split == "valid" else train
        text = said if isinstance(said, str) else json.dumps(said)
        (folder / split / "_annotations.coco.json").write_text(text)
    return folder


def test_things_of_scenes_by_the_pixels_that_are_seen():
    source = open_boxes("scenes-sample", split="train", resolution_px=48, limit=20)
    assert len(source) == 20 and len(source.label_names) == 12 and "background" not in source.label_names
    several = 0
    for index in range(len(source)):
        image, things = source.pair(index)
        scene = source.scenes.scene(index)
        assert image.tobytes() == scene.image.tobytes() and image.size == (48, 48)
        assert things.masks.sum(0).max() <= 1 and np.array_equal(things.masks.any(0), scene.mask > 0)
        several += len(things) > 1
        for box, label, mask in zip(things.boxes, things.labels, things.masks, strict=True):
            assert set(scene.mask[mask]) == {label + 1}
            left, top, right, bottom = box.astype(int)
            inside = np.zeros_like(mask)
            inside[top:bottom, left:right] = True
            assert not (mask & ~inside).any()
            for edge in (mask[top], mask[bottom - 1], mask[:, left], mask[:, right - 1]):  # as tight as can be
                assert edge.any()
    assert several > 5


def test_objects_as_the_hub_has_them(tmp_path):
    rows = [objects((BOX, "dog"), ([0, 0, 24, 16], "cat")), objects(), objects(([1.5, 2, 3, 4.25], "bird")), None]
    source = open_boxes(hub_folder(tmp_path, rows), split="train")
    assert source.label_names == ["bird", "cat", "dog"] and source.sizes == [SIZE] * 4
    assert source.things[0].boxes.tolist() == [[2, 3, 10, 9], [0, 0, 24, 16]]
    assert source.things[0].labels.tolist() == [2, 1] and source.things[0].masks is None
    assert [len(things) for things in source.things] == [2, 0, 1, 0]
    assert source.things[2].boxes.tolist() == [[1.5, 2, 4.5, 6.25]]
    assert source.things[1].boxes.shape == (0, 4) and source.things[1].labels.dtype == np.int64
    before = source.picture(2).tobytes()
    source.preload()
    assert source.picture(2).tobytes() == before and source.pair(2)[1] is source.things[2]


def test_lists_of_objects_and_numbers_with_and_without_names(tmp_path, capsys):
    rows = [[{"bbox": BOX, "category": 4}, {"bbox": BOX, "category": 9}], [{"bbox": BOX, "category": 9}]]
    folder = hub_folder(tmp_path, rows)
    source = open_boxes(folder, split="train")
    assert source.label_names == ["4", "9"] and source.things[1].labels.tolist() == [1]
    plain = source.data_hash
    (tmp_path / "id2label.json").write_text(json.dumps({"9": "cat", "4": "dog", "5": "cow"}))
    source = open_boxes(folder, split="train")
    assert source.label_names == ["dog", "cow", "cat"] and source.things[0].labels.tolist() == [0, 2]
    assert source.data_hash != plain and "class cow has no box" in capsys.readouterr().out
    (tmp_path / "id2label.json").write_text(json.dumps({"9": "cat"}))
    with pytest.raises(DataError, match=r"0\.png: the category '4' is none of cat"):
        open_boxes(folder, split="train")
    (tmp_path / "id2label.json").write_text("[1]")
    with pytest.raises(DataError, match="id2label.json has to be an object"):
        open_boxes(folder, split="train")


def test_parquet_with_class_labels(tmp_path):
    import datasets

    kinds = datasets.List({"bbox": datasets.List(datasets.Value("float32"), 4),
                           "category": datasets.ClassLabel(names=["mask", "glove"])})  # fmt: skip
    content = picture(tmp_path / "one.png").read_bytes()
    rows = {"image": [{"bytes": content, "path": None}], "objects": [[{"bbox": BOX, "category": 1}]]}
    features = datasets.Features({"image": datasets.Image(decode=False), "objects": kinds})
    (tmp_path / "data").mkdir()
    for split in ("train", "validation"):
        datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "data" / f"{split}.parquet")
    source = open_boxes(str(tmp_path / "data"), split="validation")
    assert source.label_names == ["mask", "glove"] and source.things[0].labels.tolist() == [1]
    assert source.things[0].boxes.tolist() == [[2, 3, 10, 9]] and source.names == ["row 0"]


def test_coco_beside_the_pictures(tmp_path, capsys):
    crowd = coco_of()
    crowd["annotations"][0] |= {"iscrowd": 1}
    folder = roboflow(tmp_path, crowd)
    train, held_out = (open_boxes(str(folder), split=split) for split in ("train", "validation"))
    said = capsys.readouterr().out
    assert "1 crowds are left out" in said and "1 of 3 pictures show none of the things: train/0.png" in said
    assert train.label_names == held_out.label_names == ["cat", "dog"]  # nothing is of the class "none"
    assert train.names == ["train/0.png", "train/1.png", "train/2.png"] and held_out.names[0] == "valid/0.png"
    assert [t.labels.tolist() for t in train.things] == [[], [0], [1]]
    assert [t.labels.tolist() for t in held_out.things] == [[1], [0], [1]]
    assert held_out.things[0].boxes.tolist() == [[2, 3, 10, 9]]
    assert np.asarray(held_out.picture(1))[0, 0].tolist() == [101, 90, 200]


@pytest.mark.parametrize(
    "table, split",
    [
        ("annotations/instances_train2017.json", "train"),
        ("annotations/instances_val2017.json", "validation"),
        ("test/labels.json", "test"),
        ("valid/_annotations.coco.json", "validation"),
        ("result.json", "train"),
        ("constrained/coco.json", "train"),  # a word of its own
    ],
)
def test_which_split_a_file_is_of(table, split):
    assert coco.split_of(table) == split


def test_coco_as_coco_has_it_and_a_tenth_held_out(tmp_path):
    for which, split in enumerate(("train", "val")):
        for number in range(2):
            picture(tmp_path / f"{split}2017" / f"{number}.png", number=100 * which + number)
        for what in ("instances", "person_keypoints"):
            path = tmp_path / "annotations" / f"{what}_{split}2017.json"
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(coco_of(2)))
        path.with_name(f"captions_{split}2017.json").write_text(json.dumps({"images": [], "annotations": []}))
    for split, first in (("train", 0), ("validation", 100)):
        source = open_boxes(str(tmp_path), split=split)
        assert len(source) == 2 and np.asarray(source.picture(0))[0, 0, 0] == first  # of two 0.png
    other = tmp_path / "other"
    for number in range(20):
        picture(other / "images" / f"{number}.png", number=number)
    (other / "result.json").write_text(json.dumps(coco_of(20)))
    train, held_out = (open_boxes(str(other), split=split) for split in ("train", "validation"))
    assert (len(train), len(held_out)) == (18, 2) and not set(train.names) & set(held_out.names)
    assert len(open_boxes(str(other), split="train", limit=5)) == 5


def test_coco_without_its_pictures(tmp_path):
    (tmp_path / "coco.json").write_text(json.dumps(coco_of()))
    with pytest.raises(DataError, match="coco.json names pictures, but the folder has none: lay them beside it"):
        open_boxes(str(tmp_path), split="train")


def changed(**notes) -> dict:
    """COCO's file of 3 pictures whose second thing is otherwise."""
    said = coco_of()
    said["annotations"][1] |= notes
    return said


@pytest.mark.parametrize(
    "said, words",
    [
        (changed(category_id=99), r"1\.png: category_id 99 is none of its categories \(7 none, 3 dog, 4 cat\)"),
        (changed(category_id=[3]), r"1\.png: category_id \[3\] is none"),
        (changed(bbox=[1, 2, 3]), r"1\.png: bbox \[1, 2, 3\] is not \[left, top, width, height\]"),
        (changed(bbox=[1, 2, "3", 4]), r"1\.png: bbox .* is not \[left"),
        (changed(bbox=None), r"1\.png: bbox None is not"),
        (changed(image_id=55), r"train/_annotations.coco.json, annotation 2, is of no image.*55"),
        (changed(bbox=[2, 2, 0, 5]), r"1 of 3 boxes are wrong, more than 5%: train/1\.png: the box .* has no area"),
        (changed(bbox=[30, 2, 5, 5]), r"train/1\.png: the box \[30, 2, 5, 5\] lies outside of its picture of 24 ×"),
        (changed(bbox=[10, 2, 20, 5]), r"1\.png: the box .* lies beyond its picture.*not \[left, top, right, bottom\]"),
        (coco_of(width=16, height=24), r"train/0\.png.*: the picture is 24 × 16 px, but its boxes are for 16 × 24 \("),
        (coco_of(notes=[]), "no picture has an object: draw boxes"),
        ('{"images": [', r"train/_annotations.coco.json is not JSON.*: export or download it again"),
        ("", r"train/_annotations.coco.json is not JSON"),
        ("[" * 100_000, r"train/_annotations.coco.json is not JSON"),
        ("[]", "has no list of images"),
        (coco_of() | {"categories": None}, "has no list of categories"),
        (coco_of() | {"categories": [{"id": 3}]}, r"a category is \{'id': 3\}, not"),
        (coco_of() | {"categories": [{"id": 3, "name": "a"}, {"id": 3, "name": "b"}]}, "two categories have the id 3"),
        (coco_of() | {"images": [{"id": 0}]}, "image 1, has no `file_name` and `id`"),
        (coco_of() | {"images": [{"id": 0, "file_name": "0.png"}] * 2}, "two images have the id 0, 0.png and 0.png"),
        (coco_of() | {"images": [{"id": k, "file_name": "0.png"} for k in range(3)]}, "twice names train/0.png"),
        (coco_of() | {"images": [{"id": k, "file_name": f"{k}.jpeg.png"} for k in range(3)]},
         r"names 0.jpeg.png, which is not there.*So do 3 of"),
        (coco_of() | {"images": [{"id": k, "file_name": f"../../{k}.png"} for k in range(3)]}, "not in the data set's"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_coco_is_said_by_file(tmp_path, said, words):
    with pytest.raises(DataError, match=f"(?s){words}"):
        open_boxes(str(roboflow(tmp_path, said)), split="train")


@pytest.mark.parametrize(
    "rows, words",
    [
        ([objects((BOX, "a")), {"bbox": [BOX, BOX], "categories": ["a"]}], r"train/1\.png: 2 boxes, but 1 categories"),
        ([objects((BOX, "a")), objects(([1, 2], "a"))], r"train/1\.png: the box \[1, 2\] is not"),
        ([objects((BOX, "a")), objects((BOX, ""))], r"train/1\.png: the category '' is none of a"),
        ([objects((BOX, "a")), objects(([1, 2, 3, -4], "a"))], r"train/1\.png: the box \[1, 2, 3, -4\] has no area"),
        ([{"box": [BOX], "name": ["a"]}], "column 'objects' holds box, name, but"),
        (["a thing"], "column 'objects' holds Value"),
        ([objects(), objects()], "column 'objects'|no picture has an object"),
    ],
)
def test_what_is_wrong_with_objects_is_said_by_file(tmp_path, rows, words):
    with pytest.raises(DataError, match=words):
        open_boxes(hub_folder(tmp_path, rows), split="train")


def test_a_few_odd_boxes_are_cut_or_left_out_by_name(tmp_path, capsys):
    rows = [objects((BOX, "a")) for _ in range(40)]
    rows[3] = objects((BOX, "a"), ([20, 4, 12, 6], "a"))  # half of it is outside
    rows[5] = objects(([3, 3, 0, 4], "a"))
    rows[6] = objects(([-0.4, 0, 24.8, 16.5], "a"))  # rounding
    source = open_boxes(hub_folder(tmp_path, rows), split="train")
    said = capsys.readouterr().out
    assert "2 of 41 boxes are cut to their picture or left out" in said and "train/6.png" not in said
    assert (
        "train/3.png: the box [20, 4, 12, 6] lies beyond" in said and "train/5.png: the box [3, 3, 0, 4] has no" in said
    )
    assert source.things[3].boxes.tolist() == [[2, 3, 10, 9], [20, 4, 24, 10]]
    assert len(source.things[5]) == 0 and source.things[6].boxes.tolist() == [[0, 0, 24, 16]]


def test_a_missing_column_and_unreadable_pictures(tmp_path):
    folder = hub_folder(tmp_path, [objects((BOX, "a"))] * 3)
    with pytest.raises(DataError, match="no column 'things' of boxes.*--objects_column"):
        open_boxes(folder, split="train", objects_column="things")
    (tmp_path / "train" / "1.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"1 of 3 pictures cannot be read.*train/1\.png"):
        open_boxes(folder, split="train")
    (tmp_path / "train" / "1.png").unlink()
    with pytest.raises(DataError, match=r"names 1\.png, which is not there"):
        open_boxes(folder, split="train")


def test_a_picture_on_its_side_is_upright(tmp_path):
    folder = Path(hub_folder(tmp_path, [objects(([1, 2, 3, 20], "a"))]))
    exif = Image.Exif()
    exif[boxes.ORIENTATION] = 6
    for split in ("train", "validation"):
        Image.new("RGB", SIZE).save(folder / split / "0.jpg", exif=exif)
        (folder / split / "0.png").unlink()
        row = (folder / split / "metadata.jsonl").read_text().replace("0.png", "0.jpg")
        (folder / split / "metadata.jsonl").write_text(row)
    source = open_boxes(str(folder), split="train")
    assert source.sizes == [SIZE[::-1]] == [source.picture(0).size] and len(source.things[0]) == 1


def test_the_hash_is_of_pictures_boxes_and_classes(tmp_path):
    first = [objects((BOX, "a")), objects((BOX, "b"))]
    moved = [objects((BOX, "a")), objects(([2, 3, 8, 7], "b"))]
    other = [objects((BOX, "b")), objects((BOX, "a"))]
    hashes = []
    for name, rows in (("a", first), ("b", first), ("c", moved), ("d", other)):
        hashes.append(open_boxes(hub_folder(tmp_path / name, rows), split="train").data_hash)
        shutil.rmtree(tmp_path / name)
    assert hashes[0] == hashes[1] and len(set(hashes)) == 3
    assert len(Things(np.zeros((0, 4)), np.zeros(0, np.int64))) == 0
    assert cut_to([5, 5, 4, 4], (8, 8), "x", {}) == (5, 5, 8, 8)
