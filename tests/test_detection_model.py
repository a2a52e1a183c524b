"""hub_models/detection: boxes as the stock pipeline gives them, counts, and who silences whom."""

import json

import numpy as np
import pytest
import tiny_models
import torch
from PIL import Image
from torchvision.ops import batched_nms, box_iou, nms
from transformers import pipeline

from hub_models import detection, store


@pytest.fixture(scope="module", params=["deimv2", "yolos"])
def folder(request, tmp_path_factory):
    return tiny_models.detector(tmp_path_factory.mktemp("detector") / request.param, request.param)


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    draw = np.random.default_rng(0)
    return [
        Image.fromarray(draw.integers(0, 256, (height, width, 3), dtype=np.uint8))
        for height, width in ((32, 32), (40, 64), (48, 20))
    ]


def found_of(boxes, labels, scores) -> detection.Detections:
    arrays = np.array(boxes, np.float32), np.array(labels, np.int64), np.array(scores, np.float32)
    return detection.Detections(*arrays, ["disc", "square", "bar"])


def test_the_stock_pipeline_gives_the_same_boxes(folder, pictures):
    stock, ours = pipeline("object-detection", model=str(folder)), detection.load(str(folder), "cpu")
    threshold = float(np.median(np.concatenate([found.scores for found in ours.detect(pictures, 0)])))
    theirs = [stock(picture, threshold=threshold) for picture in pictures]
    assert 0 < sum(map(len, theirs)) < sum(map(len, ours.detect(pictures, 0)))
    for one, found in zip(theirs, ours.detect(pictures, threshold), strict=True):
        one = sorted(one, key=lambda thing: -thing["score"])
        assert found.scores.tolist() == pytest.approx([thing["score"] for thing in one], abs=1e-6)
        assert [ours.label_names[k] for k in found.labels] == [thing["label"] for thing in one]
        boxes = np.array([list(thing["box"].values()) for thing in one]).reshape(-1, 4)
        assert np.abs(found.boxes - boxes).max(initial=0) < 1 + 1e-3  # the pipeline cuts to whole pixels


def test_a_picture_by_itself_and_among_others(folder, pictures):
    ours = detection.load(str(folder), "cpu")
    together = ours.detect([*pictures, *pictures[:1]], 0)
    for picture, found in zip(pictures, together, strict=False):
        [alone] = ours.detect([picture], 0)
        assert alone.labels.tolist() == found.labels.tolist()
        np.testing.assert_allclose(alone.boxes, found.boxes, atol=1e-3)
        np.testing.assert_allclose(alone.scores, found.scores, atol=1e-5)
    assert [p["pixel_values"].shape for p in ours.preprocess(pictures)] == [(1, 3, 32, 32)] * 3
    assert ours.detect([], 0.5) == [] and ours.resolution_px == 32 and ours.world is None


def test_what_is_transparent_lies_on_white(folder):
    ours = detection.load(str(folder), "cpu")
    clear = Image.new("RGBA", (32, 32), (0, 0, 0, 0))
    [inputs], [white] = ours.preprocess([clear]), ours.preprocess([Image.new("RGB", (32, 32), "white")])
    assert torch.equal(inputs["pixel_values"], white["pixel_values"])


def test_counts_are_of_what_is_above_the_threshold(folder, pictures, tmp_path):
    ours = detection.load(str(folder), "cpu")
    every = ours.detect(pictures, 0)[1]
    threshold = float(every.scores[2])  # what has just that score isn't above it
    assert sum(ours.count(pictures, threshold)[1].values()) == (every.scores > threshold).sum() <= 2
    assert found_of(np.zeros((4, 4)), [2, 0, 2, 2], [0.9, 0.8, 0.7, 0.6]).counts() == {"bar": 3, "disc": 1}
    twice = found_of([[0, 0, 10, 10], [1, 1, 11, 11], [30, 30, 40, 40]], [0, 1, 2], [0.9, 0.8, 0.7])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ours, "detect", lambda pictures, threshold: [twice])
        for overlap, counts in ((None, {"disc": 1, "square": 1, "bar": 1}), (0.5, {"disc": 1, "bar": 1})):
            ours.overlap = overlap
            assert ours.count(pictures[:1]) == [counts]
    ours.threshold, ours.overlap = 0.25, 0.4
    detection.save_folder(tmp_path / "again", ours)
    again = detection.load(str(tmp_path / "again"), "cpu")
    assert (again.threshold, again.overlap) == (0.25, 0.4) and again.label_names == ["disc", "square", "bar"]
    for one, other in zip(ours.detect(pictures), again.detect(pictures), strict=True):
        assert one.boxes.tobytes() == other.boxes.tobytes() and one.scores.tobytes() == other.scores.tobytes()


def test_overlaps_and_silence_as_torchvision_has_them():
    draw = np.random.default_rng(1)
    corners = draw.uniform(0, 50, (40, 2))
    boxes = np.concatenate([corners, corners + draw.uniform(0, 40, (40, 2))], 1).astype(np.float32)
    found = found_of(boxes, draw.integers(0, 3, 40), np.sort(draw.random(40))[::-1])
    x, scores, labels = map(torch.from_numpy, (found.boxes, found.scores, found.labels))
    np.testing.assert_allclose(detection.overlaps(boxes, boxes[:7]), box_iou(x, x[:7]), atol=1e-6)
    assert detection.overlaps(np.zeros((2, 4)), np.zeros((1, 4))).tolist() == [[0], [0]]
    for across, kept in ((True, nms(x, scores, 0.3)), (False, batched_nms(x, scores, labels, 0.3))):
        by = detection.silenced_by(found, 0.3, across_classes=across)
        assert np.flatnonzero(by < 0).tolist() == sorted(kept.tolist()) and len(kept) < 40
        for k in np.flatnonzero(by >= 0):
            assert by[by[k]] < 0 and by[k] < k and detection.overlaps(boxes[[k]], boxes[[by[k]]]) > 0.3
    by_hand = found_of([[0, 0, 10, 10], [0, 0, 10, 8], [0, 0, 10, 6]], [0, 1, 0], [0.9, 0.8, 0.7])
    assert detection.silenced_by(by_hand, 0.7).tolist() == [-1, -1, -1]  # 0.8 of another class, 0.6 of its own
    assert detection.silenced_by(by_hand, 0.7, across_classes=True).tolist() == [
        -1,
        0,
        -1,
    ]  # not by the second
    assert len(by_hand.only(np.array([0, 2]))) == 2


@pytest.mark.parametrize(
    "file, changes, words",
    [
        ("config.json", {"model_type": "vit"}, "no object detector.*choose a DEIM"),
        ("preprocessor_config.json", {"image_processor_type": "ViTImageProcessor"}, "makes no boxes"),
        ("preprocessor_config.json", {"threshold": 2}, "threshold must be a number from 0 to 1"),
        ("preprocessor_config.json", {"threshold": True}, "threshold must be a number from 0 to 1"),
        ("preprocessor_config.json", {"overlap": "half"}, "overlap must be a number from 0 to 1"),
    ],
)
def test_other_folders_are_refused_in_a_sentence(tmp_path, file, changes, words):
    folder = tiny_models.detector(tmp_path / "model", "yolos")
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(store.CheckpointError, match=words):
        detection.load(str(folder))


def test_a_folder_without_its_processor_and_a_wrong_threshold_are_refused(tmp_path, pictures):
    folder = tiny_models.detector(tmp_path / "model", "yolos")
    with pytest.raises(ValueError, match="from 0 to 1, it is 50"):
        detection.load(str(folder), "cpu").detect(pictures, 50)
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(store.CheckpointError, match="has no preprocessor_config.json"):
        detection.load(str(folder))
