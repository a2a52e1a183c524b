"""training/data/outlines: masks of single things as COCO has them, and what is wrong with them by file name."""

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from training.data.boxes import open_boxes
from training.data.files import DataError
from training.data.outlines import area, packed_mask, unpacked

SIZE = (24, 16)  # width, height
SQUARE = [2, 3, 10, 3, 10, 9, 2, 9]


def square() -> np.ndarray:
    mask = np.zeros(SIZE[::-1], bool)
    mask[3:9, 2:10] = True
    return mask


def runs(mask: np.ndarray) -> list[int]:
    """Column by column, from a run of zeros on."""
    flat = mask.T.flatten()
    edges = np.flatnonzero(np.diff(flat)) + 1
    lengths = np.diff([0, *edges, len(flat)]).tolist()
    return [0, *lengths] if flat[0] else lengths


def test_polygons_run_lengths_and_texts_are_one_mask():
    wanted, draw = square(), np.random.default_rng(0)
    for value in ([SQUARE], SQUARE, json.dumps([SQUARE]), {"size": [16, 24], "counts": runs(wanted)}):
        assert np.array_equal(unpacked([packed_mask(value, SIZE)], SIZE)[0], wanted)
    for share in (0.02, 0.5, 0.98):
        mask = draw.random(SIZE[::-1]) < share
        text = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
        for counts in (runs(mask), text):
            packed = packed_mask({"size": [16, 24], "counts": counts}, SIZE)
            assert np.array_equal(unpacked([packed], SIZE)[0], mask) and area(packed, SIZE) == mask.sum()
    two = packed_mask([SQUARE, [12, 10, 20, 10, 20, 14, 12, 14]], SIZE)
    assert area(two, SIZE) == 48 + 32 and unpacked([], SIZE).shape == (0, 16, 24)
    beyond = packed_mask([[-1e12, 3, 1e12, 3, 1e12, 9, -1e12, 9]], SIZE)  # cut, and not walked pixel by pixel
    assert area(beyond, SIZE) == 24 * 6


@pytest.mark.parametrize(
    "value, words",
    [
        (None, "has no mask"),
        ([], "has no mask"),
        ("[[1, 2", "is no JSON"),
        ([[1, 2, 3, 4]], "no list of polygons"),
        ([[1, 2, 3, 4, 5]], "no list of polygons"),
        ([[1, 2, 3, 4, 5, "six"]], "no list of polygons"),
        ([[1, 2, 3, 4, 5, float("nan")]], "no list of polygons"),
        (7, "no list of polygons"),
        ({"counts": [384]}, "are for a size of None"),
        ({"size": [24, 16], "counts": [384]}, r"size of \[24, 16\], but the picture is \[16, 24\]"),
        ({"size": [16, 24], "counts": [1, 2]}, "make 3 pixels of 384"),
        ({"size": [16, 24], "counts": [400, -16]}, "no list or text"),
        ({"size": [16, 24], "counts": [1.5]}, "no list or text"),
        ({"size": [16, 24], "counts": "\x00"}, "at place 0 of their text"),
        ({"size": [16, 24], "counts": "o" * 9}, "at place"),
        ({"size": [16, 24], "counts": "P"}, "in the midst of a number"),
    ],
)
def test_what_is_no_mask_is_said(value, words):
    with pytest.raises(ValueError, match=words):
        packed_mask(value, SIZE)


def hub_folder(folder, masks: list, boxes: int = 1) -> str:
    """A folder of pictures, each with things whose masks are these."""
    for split in ("train", "validation"):
        lines = []
        (folder / split).mkdir(parents=True)
        for number, mask in enumerate(masks):
            Image.new("RGB", SIZE, (number, 9, 9)).save(folder / split / f"{number}.png")
            objects = {"bbox": [[2, 3, 8, 6]] * boxes, "categories": ["dog"] * boxes, "segmentation": mask}
            lines.append(json.dumps({"file_name": f"{number}.png", "objects": objects}))
        (folder / split / "metadata.jsonl").write_text("\n".join(lines))
    return str(folder)


def test_masks_of_a_folder_are_there_where_they_are_wanted(tmp_path):
    folder = hub_folder(tmp_path, [[[SQUARE]], [[SQUARE]]])
    plain, masked = open_boxes(folder, split="train"), open_boxes(folder, split="train", masks=True)
    assert plain.pair(0)[1].masks is None and plain.data_hash != masked.data_hash
    picture, things = masked.pair(1)
    assert picture.size == SIZE and np.array_equal(things.masks[0], square())
    with pytest.raises(DataError, match="holds bbox, categories, but no masks"):
        none = tmp_path / "none"
        hub_folder(none, [None])
        for split in ("train", "validation"):
            path = none / split / "metadata.jsonl"
            row = json.loads(path.read_text())
            del row["objects"]["segmentation"]
            path.write_text(json.dumps(row))
        open_boxes(str(none), split="train", masks=True)


def test_masks_of_coco(tmp_path, capsys):
    notes = [
        {"id": 1, "image_id": 0, "category_id": 3, "bbox": [2, 3, 8, 6], "segmentation": [SQUARE]},
        {"id": 2, "image_id": 0, "category_id": 3, "bbox": [2, 3, 8, 6],
         "segmentation": {"size": [16, 24], "counts": runs(square())}},
        {"id": 3, "image_id": 1, "category_id": 3, "bbox": [2, 3, 8, 6], "segmentation": {}, "iscrowd": 1},
    ]  # fmt: skip
    for split in ("train", "valid"):
        (tmp_path / split).mkdir()
        for number in range(2):
            Image.new("RGB", SIZE, (number, 9, 9)).save(tmp_path / split / f"{number}.png")
        images = [{"id": k, "file_name": f"{k}.png", "width": 24, "height": 16} for k in range(2)]
        said = {"images": images, "annotations": notes, "categories": [{"id": 3, "name": "dog"}]}
        (tmp_path / split / "_annotations.coco.json").write_text(json.dumps(said))
    source = open_boxes(str(tmp_path), split="train", masks=True)
    masks = source.pair(0)[1].masks
    assert masks.shape == (2, 16, 24) and all(np.array_equal(mask, square()) for mask in masks)
    assert source.pair(1)[1].masks.shape == (0, 16, 24) and "1 crowds are left out" in capsys.readouterr().out
    notes[1]["segmentation"] = []
    (tmp_path / "train" / "_annotations.coco.json").write_text(json.dumps(said))
    with pytest.raises(DataError, match=r"0\.png: a thing has no mask"):
        open_boxes(str(tmp_path), split="train", masks=True)
    assert open_boxes(str(tmp_path), split="train").pair(0)[1].masks is None


def test_an_empty_part_is_called_by_its_name(tmp_path):
    folder = hub_folder(tmp_path, [[[SQUARE]], [[SQUARE]]])
    lines = [{"file_name": f"{k}.png", "objects": {"bbox": [], "categories": []}} for k in range(2)]
    (tmp_path / "validation" / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(DataError, match="split 'validation': no picture has an object"):
        open_boxes(folder, split="validation")
