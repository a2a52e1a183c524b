"""Captions made of labels of photographs say what is there and no more, and stand beside people's captions."""

import json
import random

import numpy as np
import pytest
from PIL import Image

from training.data import photo_captions
from training.data.facts import CARDS, facts_of
from training.data.photo_captions import captions_of, counted
from training.data.sources import open_source


def part(*rows: slice, side: int = 40) -> np.ndarray:
    mask = np.zeros((side, side), bool)
    for row in rows:
        mask[row, 5:35] = True
    return mask


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (part(slice(0, 10)), "a cow"),
        (part(slice(0, 10), slice(20, 30)), "two cows"),
        (part(slice(0, 4), slice(8, 12), slice(20, 24)), "three cows"),
        (part(*(slice(k, k + 4) for k in range(0, 40, 8))), "cows"),
        (part(slice(0, 10), slice(20, 20)), "a cow"),
    ],
)
def test_things_are_counted_by_their_patches(mask, said):
    assert counted("cow", mask) == said


def test_a_thing_is_said_to_be_where_it_is():
    seen = {"cow": part(slice(10, 20)), "grass": part(slice(20, 40)), "tree": part(slice(0, 10))}
    said = {text for seed in range(30) for text in captions_of(seen, None, random.Random(seed))}
    assert {
        "A cow on grass.",
        "A cow in front of trees.",
        "A cow on grass in front of trees.",
        "There is a cow.",
    } <= said
    assert all(word not in " ".join(said) for word in ("water", "sky", "building"))


def test_scenes_are_named_and_what_nothing_is_known_of_is_left_out():
    said = captions_of({"mountain": part(slice(10, 40)), "sky": part(slice(0, 10))}, "mountains", random.Random(0))
    assert len(said) == photo_captions.EACH and all(text.endswith(".") and text[0].isupper() for text in said)
    assert captions_of({"sky": part(slice(0, 40))}, None, random.Random(0)) == []


def test_the_folder_holds_peoples_captions_and_made_ones(tmp_path):
    data, picture = tmp_path / "data", Image.new("RGB", (32, 32), (90, 120, 60))
    for where in ("flickr8k/train", "flickr8k/validation", "photo-scenes/train/images", "photo-scenes/train/masks",
                  "clothing-10/train/shoes", "clothing-10/validation/shoes"):  # fmt: skip
        (data / where).mkdir(parents=True)
    for part_name in ("train", "validation"):
        picture.save(data / "flickr8k" / part_name / "a.jpg")
        row = {"file_name": "a.jpg", "text": [f"A dog runs {k}." for k in range(5)]}
        (data / "flickr8k" / part_name / "metadata.jsonl").write_text(json.dumps(row) + "\n")
    mask = np.zeros((32, 32), np.uint8)
    mask[16:] = 3
    picture.save(data / "photo-scenes/train/images/siftflow-opencountry_1.jpg")
    Image.fromarray(mask).save(data / "photo-scenes/train/masks/1.png")
    row = {"file_name": "images/siftflow-opencountry_1.jpg", "label_file_name": "masks/1.png"}
    (data / "photo-scenes/train/metadata.jsonl").write_text(json.dumps(row) + "\n")
    (data / "photo-scenes/id2label.json").write_text(json.dumps({"0": "sky", "3": "grass"}))
    picture.save(data / "clothing-10/train/shoes/s.jpg")
    picture.save(data / "clothing-10/validation/shoes/never.jpg")
    for name in ("flickr8k", "photo-scenes", "clothing-10"):
        card = (CARDS / f"{name}.md").read_text(encoding="utf-8")
        (data / name / "README.md").write_text(card, encoding="utf-8")

    photo_captions.main(photo_captions.Config(data, tmp_path / "out"))
    train, held_out = (open_source(str(tmp_path / "out"), split=split) for split in ("train", "validation"))
    assert len(train) == 3 and len(held_out) == 1
    captions = [text for row in train.column("text") for text in row]
    assert len(captions) == 15 and any("pair of shoes" in text for text in captions)
    assert any("open country" in text.lower() for text in captions)
    facts = facts_of(str(tmp_path / "out"))
    assert len(facts.credits) > 5 and not facts.show_pictures and facts.limits
    with pytest.raises(SystemExit, match=r"cards/flickr8k\.md"):
        photo_captions.main(photo_captions.Config(tmp_path / "nowhere", tmp_path / "out"))
