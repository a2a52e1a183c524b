"""training/detection: samples whose boxes follow their pictures, the stock loss, scores by hand, and beginnings."""

import copy
import dataclasses
import json
import random
from pathlib import Path

import numpy as np
import pytest
import tiny_models
import torch
from PIL import Image, ImageDraw

from hub_models import classifier, detection, store
from training import detection as script
from training.data.boxes import open_boxes
from training.data.things import Things
from training.detection import evaluation, losses, model, samples, scores

TINY = dataclasses.replace(script.PRESETS["tiny"], cpu=True)
COLOURS = ("red", "lime", "blue")


def drawn(boxes, size=(40, 30)) -> Image.Image:
    """A grey picture with a rectangle of its own colour in each box."""
    picture = Image.new("RGB", size, (128, 128, 128))
    for (left, top, right, bottom), colour in zip(boxes, COLOURS, strict=False):
        ImageDraw.Draw(picture).rectangle((left, top, right - 1, bottom - 1), fill=colour)
    return picture


def things_in(boxes, labels) -> Things:
    return Things(np.array(boxes, np.float32).reshape(-1, 4), np.array(labels, np.int64))


def found_of(boxes, labels, values) -> detection.Detections:
    things = things_in(boxes, labels)
    return detection.Detections(things.boxes, things.labels, np.array(values, np.float32), ["a", "b", "c"])


# --- samples ---------------------------------------------------------------------------------------------------------


def test_boxes_follow_their_pixels():
    boxes = [(2, 3, 12, 9), (20, 10, 34, 28), (14, 2, 18, 8)]
    picture, things = drawn(boxes), things_in(boxes, [0, 1, 2])
    shapes, gone = set(), 0
    for number in range(60):
        rng = random.Random(number)
        zoom = rng.uniform(0.5, 2)
        shown, part = samples.part_of(picture, things, zoom, rng, 0.4)
        rows, labels = samples.as_shares(part.boxes, shown.size), part.labels
        assert shown.size == (round(40 / zoom), round(30 / zoom))
        shapes.add(shown.size)
        pixels, scale = np.asarray(shown), np.array([*shown.size, *shown.size])
        gone += 3 - len(labels)
        for (x, y, width, height), label in zip(rows * scale, labels, strict=True):
            mask = (pixels == np.array(Image.new("RGB", (1, 1), COLOURS[label]).getpixel((0, 0)))).all(2)
            ys, xs = np.nonzero(mask)
            by_pixels = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
            np.testing.assert_allclose(
                [x - width / 2, y - height / 2, x + width / 2, y + height / 2], by_pixels, atol=1e-3
            )
    assert len(shapes) > 20 and gone > 10
    whole, part = samples.part_of(picture, things, 1.0, random.Random(0), 0.4)
    assert whole.tobytes() == picture.tobytes() and part.labels.tolist() == [0, 1, 2]
    np.testing.assert_allclose(
        samples.as_shares(part.boxes, whole.size)[0], [7 / 40, 6 / 30, 10 / 40, 6 / 30], rtol=1e-6
    )


def test_what_is_hardly_seen_is_gone():
    wide = things_in([(0, 0, 40, 30)], [0])  # at twice the size a quarter of it is left
    for least, left in ((0.2, 1), (0.3, 0)):
        _, part = samples.part_of(drawn([]), wide, 2.0, random.Random(0), least)
        assert len(part.boxes) == len(part) == left
    _, none = samples.part_of(drawn([]), things_in([], []), 1.5, random.Random(0), 0.4)
    assert none.boxes.shape == (0, 4) and none.labels.shape == (0,)


@pytest.fixture(scope="module")
def served() -> detection.Detector:
    torch.manual_seed(0)
    return model.create_model(TINY, [f"class {k}" for k in range(12)])


def test_a_sample_is_a_function_of_its_draw(served):
    source = open_boxes("scenes-sample", split="train", resolution_px=32, limit=10)
    cfg = dataclasses.replace(TINY, random_flip=True, scale=(1.0, 1.0), color_jitter=0.0, grayscale=0.0)
    boxed, seen = samples.BoxedPictures(source, cfg, served), set()
    for number in range(8):
        one, again = (boxed.sample(3, torch.Generator().manual_seed(number)) for _ in range(2))
        assert all(torch.equal(one[key], again[key]) for key in one)
        picture, things = source.pair(3)
        [plain] = served.preprocess([picture])
        flipped = not torch.equal(one["pixels"], plain["pixel_values"][0])
        seen.add(flipped)
        pixels = one["pixels"].flip(-1) if flipped else one["pixels"]
        torch.testing.assert_close(pixels, plain["pixel_values"][0])
        count = len(things)
        assert one["labels"].tolist() == [*things.labels, *[samples.NONE] * (6 - count)] and one["boxes"].shape == (
            6,
            4,
        )
        x, y, width, height = (one["boxes"][:count] * 32).T.numpy()
        x = 32 - x if flipped else x
        sides = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
        np.testing.assert_allclose(np.stack(sides, 1), things.boxes, atol=1e-4)
    assert seen == {True, False}
    augmented = samples.BoxedPictures(source, TINY, served)
    draws = [augmented.sample(3, torch.Generator().manual_seed(k))["pixels"] for k in (0, 1)]
    assert not torch.equal(*draws) and draws[0].shape == (3, 32, 32)


# --- the loss --------------------------------------------------------------------------------------------------------


def batch_of(labels: list[list[int]]) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    boxes = torch.rand(len(labels), 3, 4, generator=draw) * 0.4 + 0.2
    return {
        "pixels": torch.randn(len(labels), 3, 32, 32, generator=draw),
        "boxes": boxes,
        "labels": torch.tensor(labels),
    }


def test_the_loss_is_that_of_the_stock_class(served):
    ours, batch = copy.deepcopy(served.model).train(), batch_of([[3, 5, -1], [0, -1, -1]])
    torch.manual_seed(5)  # of what is denoised
    loss, parts = losses.detection_loss(ours, batch)
    truths = [{"class_labels": torch.tensor(labels), "boxes": batch["boxes"][row, : len(labels)]}
              for row, labels in enumerate(([3, 5], [0]))]  # fmt: skip
    torch.manual_seed(5)
    again = copy.deepcopy(served.model).train()(pixel_values=batch["pixels"], labels=truths)
    assert torch.equal(loss, again.loss) and {"loss_mal", "loss_bbox", "loss_giou"} <= parts.keys()
    loss.backward()
    learned = [p.grad for p in ours.parameters() if p.grad is not None]
    assert len(learned) > 0.8 * len(list(ours.parameters())) and all(grad.isfinite().all() for grad in learned)


def test_pictures_without_anything_are_learned_from(served):
    loss, _ = losses.detection_loss(copy.deepcopy(served.model).train(), batch_of([[-1] * 3] * 2))
    loss.backward()
    assert loss.isfinite() and loss > 0


def test_the_loss_is_in_fp32_whatever_the_model_computes_in(served):
    """What matches answers with things takes no bf16."""
    ours = copy.deepcopy(served.model).train()
    ours.config.num_denoising = 0
    ours.loss_function = losses.in_fp32(ours.loss_function)
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = losses.detection_loss(ours, batch_of([[3, 5, -1], [0, -1, -1]]))
    assert loss.dtype == torch.float32 and loss.isfinite()
    seen = losses.in_fp32(lambda logits, targets, *, more: (logits, targets, more))(
        torch.ones(2).bfloat16(), [{"boxes": torch.ones(1).half(), "class_labels": torch.ones(1).long()}], more=None
    )
    assert (
        seen[0].dtype == seen[1][0]["boxes"].dtype == torch.float32 and seen[1][0]["class_labels"].dtype == torch.int64
    )


# --- scores ----------------------------------------------------------------------------------------------------------

A, B, FAR = (0, 0, 10, 10), (20, 20, 40, 40), (60, 60, 70, 70)


@pytest.mark.parametrize(
    "found, truth, map50, whole",
    [
        # Right, wrong, right: precision 1 up to half of the things, 2/3 beyond; at 51 and 50 of COCO's 101 places.
        (([A, FAR, B], [0, 0, 0], [0.9, 0.8, 0.7]), ([A, B], [0, 0]), (51 + 50 * 2 / 3) / 101, None),
        (([A, B], [0, 1], [0.9, 0.1]), ([A, B], [0, 1]), 1, None),
        (([A, B], [1, 0], [0.9, 0.9]), ([A, B], [0, 1]), 0, None),  # each by the other's name
        # Of what lies as far as 0.77 in both: right at 0.5, 0.55, …, 0.75, which are 6 of 10.
        (([(0, 0, 10, 7.7)], [0], [0.5]), ([A], [0]), 1, 0.6),
        # The second box on one thing is wrong: precision 1 up to the first half, then nothing.
        (([A, A], [0, 0], [0.9, 0.8]), ([A, B], [0, 0]), 51 / 101, None),
        (([A, FAR], [0, 2], [0.9, 0.8]), ([A], [0]), 1, None),  # of a class that isn't there nothing is said
        (([A], [0], [0.9]), ([A, B], [0, 1]), 0.5, None),  # the mean over two classes
        (([], [], []), ([A], [0]), 0, None),
    ],
)
def test_average_precision_by_hand(found, truth, map50, whole):
    measured, per_class = scores.average_precision([found_of(*found)], [things_in(*truth)], ["a", "b", "c"])
    assert measured["map50"] == pytest.approx(map50, abs=1e-6)
    assert measured["map"] == pytest.approx(map50 if whole is None else whole, abs=1e-6)
    assert set(per_class["map"]) == {["a", "b", "c"][k] for k in truth[1]}
    assert np.mean(list(per_class["map"].values())) == pytest.approx(measured["map"], abs=1e-6)


def test_average_precision_over_pictures():
    """The surest answer of all is wrong: 1/2, then 2/3 of what was answered is right."""
    found = [found_of([A], [0], [0.6]), found_of([FAR, B], [0, 0], [0.9, 0.5])]
    measured, _ = scores.average_precision(found, [things_in([A], [0]), things_in([B], [0])], ["a"])
    assert measured["map50"] == pytest.approx(2 / 3, abs=1e-6)
    with pytest.raises(ValueError, match="no picture has a thing"):
        scores.average_precision(found[:1], [things_in([], [])], ["a"])


def test_counts_by_hand():
    found = [
        found_of([A, B, FAR], [0, 0, 1], [0.9, 0.8, 0.3]),  # two of a: right; at 0.2 one of b too many
        found_of([A, B], [0, 1], [0.9, 0.8]),  # one of each, where two of b are
        found_of([], [], []),
    ]
    truths = [things_in([A, B], [0, 0]), things_in([A, B], [1, 1]), things_in([], [])]
    third = pytest.approx(1 / 3)
    assert scores.counts_right(found, truths, 0.5) == {
        "counted": pytest.approx(2 / 3), "counted_in_all": 1.0, "count_error": pytest.approx(2 / 3),
    }  # fmt: skip
    assert scores.counts_right(found, truths, 0.2) == {
        "counted": third, "counted_in_all": pytest.approx(2 / 3), "count_error": 1.0,
    }  # fmt: skip
    assert scores.best_counting(found, truths) == (0.3, None)  # what has just that score isn't above it


def test_doubles_are_counted_once_where_that_is_right_more_often():
    near = [A[0] + 1, A[1] + 1, A[2] + 1, A[3] + 1]
    found = [found_of([A, near, FAR], [0, 1, 0], [0.9, 0.7, 0.6]), found_of([FAR, A], [1, 0], [0.4, 0.2])]
    truths = [things_in([A, FAR], [0, 0]), things_in([FAR], [1])]
    assert scores.counts_right(found, truths, 0.3)["counted"] == 0.5
    shared = float(detection.overlaps(np.array([A], float), np.array([near], float))[0, 0])
    assert 0.3 < shared < 0.7
    assert scores.counts_right(found, truths, 0.3, shared - 0.01)["counted"] == 1.0
    assert scores.counts_right(found, truths, 0.3, shared + 0.01)["counted"] == 0.5
    assert scores.best_counting(found, truths) == (0.2, 0.3)


# --- beginnings ------------------------------------------------------------------------------------------------------


def test_a_backbone_begins_as_a_swin_of_transformers(tmp_path):
    folder = tiny_models.segmenter(tmp_path / "seg", "swin")
    args = dict(TINY.model_args) | {"drop_path_rate": 0.0}
    cfg = dataclasses.replace(TINY, tower_name_or_path=str(folder), model_args=args)
    with pytest.raises(SystemExit, match="maps at strides .*8 and 16 are needed"):  # it has two stages
        model.create_model(cfg, ["a"])
    made = tiny_models.SwinModel(
        tiny_models.SwinConfig(image_size=64, embed_dim=8, depths=[1, 1, 1], num_heads=[2, 2, 2], window_size=4)
    )
    made.save_pretrained(tmp_path / "swin")
    cfg = dataclasses.replace(cfg, tower_name_or_path=str(tmp_path / "swin"), resolution=64)
    detector = model.create_model(cfg, ["a"])
    x = torch.randn(1, 3, 64, 64)
    inside = model.backbone_of(detector.model).eval()
    theirs = made.eval()(x, output_hidden_states=True).reshaped_hidden_states
    assert [m.shape[1:] for m in inside(x).feature_maps] == [(16, 8, 8), (32, 4, 4)]
    ours = inside.swin(x, output_hidden_states=True).reshaped_hidden_states
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    groups = (
        script.task_of(dataclasses.replace(cfg, base_lr_scale=0.3, output_dir=str(tmp_path / "run"))).players[0].groups
    )
    slow = sum(len(group["params"]) for group in groups if group.get("lr_scale") == 0.3)
    assert slow == len(list(inside.parameters()))
    with pytest.raises(SystemExit, match="--resolution 40 is no multiple of 16"):
        model.create_model(dataclasses.replace(cfg, tower_name_or_path=None, resolution=40), ["a"])


def test_a_backbone_begins_as_a_network_of_timm():
    cfg = dataclasses.replace(TINY, tower_name_or_path="photo", resolution=64)
    detector, tower = model.create_model(cfg, ["a", "b"]), classifier.load("photo", "cpu")
    x = torch.randn(1, 3, 64, 64)
    ours = model.backbone_of(detector.model).eval()(x).feature_maps
    theirs = tower.model.forward_intermediates(x, indices=[2, 3, 4], intermediates_only=True)
    assert [m.shape[-1] for m in ours] == [8, 4, 2]
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-4)
    white = detector.preprocess([Image.new("RGB", (64, 64), "white")])[0]["pixel_values"][0, :, 0, 0]
    torch.testing.assert_close(white, ((1 - tower.mean) / tower.std).flatten(), atol=1e-5, rtol=0)


def test_other_classes_leave_all_but_what_is_of_the_classes(tmp_path, capsys):
    folder = tiny_models.detector(tmp_path / "model")
    cfg = dataclasses.replace(TINY, pretrained_model_name_or_path=str(folder), resolution=48)
    started = model.start_from(cfg, ["x", "y"])
    assert "its class layers are made anew" in capsys.readouterr().out and started.label_names == ["x", "y"]
    before = dict(detection.load(str(folder), "cpu").model.named_parameters())
    changed = set()
    for name, value in started.model.named_parameters():
        if value.shape != before[name].shape or not torch.equal(value, before[name]):
            changed.add(name)
    assert changed and all("class" in name or "score" in name for name in changed)
    fixed = {name for name, p in started.model.named_parameters() if not p.requires_grad}
    assert fixed == {"model.decoder.up", "model.decoder.reg_scale"}  # as its library has them
    assert started.resolution_px == 48
    same = model.start_from(dataclasses.replace(cfg, resolution=32), ["disc", "square", "bar"])
    assert "made anew" not in capsys.readouterr().out
    for name, value in same.model.named_parameters():
        assert torch.equal(value, before[name])


@pytest.fixture(scope="module")
def my_boxes(tmp_path_factory) -> Path:
    """Rectangles in two colours, with COCO's files beside them."""
    folder = tmp_path_factory.mktemp("my_boxes")
    for split, count in (("train", 6), ("valid", 3)):
        (folder / split).mkdir()
        images, notes = [], []
        for k in range(count):
            boxes = [(4, 4, 18, 20), (22, 6, 36, 26)][: k % 3]
            drawn(boxes).save(folder / split / f"{k}.png")
            images.append({"id": k, "file_name": f"{k}.png", "width": 40, "height": 30})
            for category, (left, top, right, bottom) in enumerate(boxes):
                notes.append({"id": len(notes), "image_id": k, "category_id": category,
                              "bbox": [left, top, right - left, bottom - top]})  # fmt: skip
        named = [{"id": 0, "name": "red"}, {"id": 1, "name": "green"}]
        said = {"images": images, "annotations": notes, "categories": named}
        (folder / split / "_annotations.coco.json").write_text(json.dumps(said))
    return folder


def test_a_persons_own_boxes_are_learned_and_measured(my_boxes, tmp_path, capsys):
    run = tmp_path / "run"
    script.main(["--preset", "tiny", "--cpu", "--dataset_name", str(my_boxes), "--output_dir", str(run)])
    assert "validation/map50" in capsys.readouterr().out
    served = detection.load(str(run / "export"), "cpu")
    assert served.label_names == ["green", "red"] and served.world is not None and served.threshold in scores.THRESHOLDS
    measured = evaluation.evaluate_checkpoint(str(run / "export"), str(my_boxes)).as_json()
    assert measured["metrics"]["validation/pictures"] == 3 and measured["baseline"][
        "validation/counted"
    ] == pytest.approx(1 / 3)  # one red, alone
    assert set(measured["per_class"]["validation/map"]) == {"green", "red"}
    with pytest.raises(SystemExit, match="answers with green, red, but scenes-sample has"):
        evaluation.evaluate_checkpoint(str(run / "export"), "emoji-sample")
    assert store.verify(run / "export", manifest_required=True) is None


def test_what_is_refused_in_a_sentence():
    for changes, words in (
        ({"scale": (0.0, 1.0)}, "--scale must be"),
        ({"least_seen": 0.0}, "--least_seen must lie"),
        ({"tower_name_or_path": "photo", "pretrained_model_name_or_path": "emoji"}, "exclude each other"),
    ):
        with pytest.raises(ValueError, match=words):
            dataclasses.replace(TINY, **changes)
