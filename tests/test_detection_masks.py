"""Detection with masks: as the stock pipeline has them, learned from scenes and outlines, and scored by hand."""

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
from transformers import AutoBackbone, SwinConfig, SwinModel, pipeline
from transformers.models.maskformer.configuration_maskformer_swin import MaskFormerSwinConfig

from hub_models import detection, store
from training import beginnings, towers
from training import detection as script
from training.data.boxes import open_boxes
from training.data.things import Things
from training.detection import evaluation, losses, model, samples, scores

TINY = dataclasses.replace(script.PRESETS["tiny"], cpu=True, architecture="maskformer")
TINY = dataclasses.replace(TINY, model_args=dict(TINY.model_args) | {"mask_width": 32, "drop_path_rate": 0.0})
LABELS = [f"class {k}" for k in range(12)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny_models.detector(tmp_path_factory.mktemp("detector") / "masks", "maskformer")


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    return tiny_models.noise((32, 32), (40, 64), (48, 20))


# --- what is served --------------------------------------------------------------------------------------------------


def test_the_stock_pipeline_gives_the_same_masks(folder, pictures):
    """The pipeline gives a pixel to one thing alone, the last in an order of its own; else masks are the same."""
    stock, ours = pipeline("image-segmentation", model=str(folder)), detection.load(str(folder), "cpu")
    every = np.concatenate([found.scores for found in ours.detect(pictures, 0)])
    alone = several = 0
    for threshold in (float(np.median(every)), float(np.sort(every)[-2]) + 1e-6):
        for picture, found in zip(pictures, ours.detect(pictures, threshold), strict=True):
            theirs = sorted(stock(picture, subtask="instance", threshold=threshold), key=lambda thing: -thing["score"])
            assert found.scores.tolist() == pytest.approx([thing["score"] for thing in theirs], abs=2e-6)
            assert [ours.label_names[k] for k in found.labels] == [thing["label"] for thing in theirs]
            masks = np.array([np.asarray(thing["mask"]) > 0 for thing in theirs], bool).reshape(found.masks.shape)
            assert found.masks.shape == (len(found), picture.height, picture.width)
            assert not (masks & ~found.masks).any() and np.array_equal(masks.any(0), found.masks.any(0))
            for row, lost in enumerate(found.masks & ~masks):  # all of it is another's
                others = np.delete(masks, row, 0)
                assert np.array_equal(lost, lost & others.any(0))
            shared = found.masks.sum(0) > 1
            assert np.array_equal(masks[:, ~shared], found.masks[:, ~shared])
            alone, several = alone + (len(found) == 1), several + (len(found) > 1)
    assert alone and several


def test_boxes_are_those_around_the_masks(folder, pictures):
    ours = detection.load(str(folder), "cpu")
    for picture, found in zip(pictures, ours.detect(pictures, 0), strict=True):
        assert len(found) and found.masks.dtype == bool and found.boxes.dtype == np.float32
        assert (np.diff(found.scores) <= 0).all()
        for box, mask in zip(found.boxes, found.masks, strict=True):
            ys, xs = np.nonzero(mask)
            assert box.tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
        first = found.only(np.array([0]))
        assert np.array_equal(first.masks, found.masks[:1]) and first.masks.shape[1:] == picture.size[::-1]
        surer = ours.detect([picture], float(found.scores[1]))[0]
        assert np.array_equal(surer.masks, found.only(found.scores > found.scores[1]).masks)
    for none in ours.detect(pictures, 1):
        assert len(none) == 0 and none.boxes.shape == (0, 4) and none.masks.shape[0] == 0
    assert ours.makes_masks and ours.resolution_px == 32 and ours.detect([]) == []
    assert detection.boxes_of(np.zeros((0, 4, 5), bool)).shape == (0, 4)


def test_saved_again_it_finds_the_same(folder, pictures, tmp_path):
    ours = detection.load(str(folder), "cpu")
    ours.threshold = 0.25
    detection.save_folder(tmp_path / "again", ours)
    again = detection.load(str(tmp_path / "again"), "cpu")
    assert again.threshold == 0.25 and again.kind == "maskformer"
    for one, other in zip(ours.detect(pictures, 0), again.detect(pictures, 0), strict=True):
        assert np.array_equal(one.masks, other.masks) and one.scores.tobytes() == other.scores.tobytes()
    path = tmp_path / "again" / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"image_processor_type": "ViTImageProcessor"}))
    with pytest.raises(store.CheckpointError, match="makes no masks"):
        detection.load(str(tmp_path / "again"))


# --- samples and the loss --------------------------------------------------------------------------------------------


def test_masks_follow_their_pixels():
    picture = Image.new("RGB", (40, 30), (128, 128, 128))
    colours = {"red": (4, 4, 16, 14), "blue": (18, 6, 38, 28)}
    for colour, box in colours.items():
        ImageDraw.Draw(picture).ellipse(box, fill=colour)
    pixels = np.asarray(picture)
    masks = np.stack([(pixels == np.array(rgb)).all(2) for rgb in ((255, 0, 0), (0, 0, 255))])
    things, gone = Things(detection.boxes_of(masks), np.array([0, 1]), masks), 0
    for number in range(40):
        rng = random.Random(number)
        zoom = rng.uniform(0.5, 2)
        shown, part = samples.part_of(picture, things, zoom, rng, 0.4)
        gone += 2 - len(part)
        inner = np.asarray(shown)
        for label, mask in zip(part.labels, part.masks, strict=True):
            there = (inner == np.array([(255, 0, 0), (0, 0, 255)][label])).all(2)
            assert mask.shape == inner.shape[:2] and np.array_equal(mask, there)
            assert mask.sum() >= 0.4 * masks[label].sum()
    assert gone > 5


@pytest.fixture(scope="module")
def served() -> detection.Detector:
    torch.manual_seed(0)
    return model.create_model(TINY, LABELS)


def test_a_sample_says_how_much_of_each_cell_is_a_things(served):
    source = open_boxes("scenes-sample", split="train", resolution_px=32, limit=10)
    cfg = dataclasses.replace(TINY, random_flip=True, scale=(1.0, 1.0), color_jitter=0.0, grayscale=0.0)
    drawn, flips = samples.BoxedPictures(source, cfg, served), set()
    for number in range(8):
        one = drawn.sample(3, torch.Generator().manual_seed(number))
        picture, things = source.pair(3)
        [plain] = served.preprocess([picture])
        flipped = not torch.equal(one["pixels"], plain["pixel_values"][0])
        flips.add(flipped)
        assert one["masks"].shape == (6, 8, 8) and one["labels"][: len(things)].tolist() == things.labels.tolist()
        masks = one["masks"].flip(2) if flipped else one["masks"]
        cells = things.masks.reshape(len(things), 8, 4, 8, 4).mean((2, 4))
        np.testing.assert_allclose(masks[: len(things)], cells, atol=1e-6)
        assert not masks[len(things) :].any() and (one["labels"][len(things) :] == samples.NONE).all()
    assert flips == {True, False}


def batch_of(labels: list[list[int]]) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    return {
        "pixels": torch.randn(len(labels), 3, 32, 32, generator=draw),
        "masks": (torch.rand(len(labels), 3, 8, 8, generator=draw) > 0.7).float(),
        "labels": torch.tensor(labels),
    }


def test_the_loss_is_that_of_the_stock_class_after_each_layer(served):
    ours, batch = copy.deepcopy(served.model).eval(), batch_of([[3, 5, -1], [0, -1, -1]])
    loss, parts = losses.mask_loss(ours, batch)
    truth = {"mask_labels": [batch["masks"][0, :2], batch["masks"][1, :1]],
             "class_labels": [torch.tensor([3, 5]), torch.tensor([0])]}  # fmt: skip
    last = ours(pixel_values=batch["pixels"], **truth).loss
    torch.testing.assert_close(sum(parts.values()), last)
    shallow = copy.deepcopy(ours)
    decoder = shallow.model.transformer_module.decoder
    decoder.layers = decoder.layers[:1]  # two layers in all
    torch.testing.assert_close(loss, last + shallow(pixel_values=batch["pixels"], **truth).loss)
    loss.backward()
    learned = [p.grad for p in ours.parameters() if p.grad is not None]
    assert len(learned) > 0.9 * len(list(ours.parameters())) and all(grad.isfinite().all() for grad in learned)


def test_pictures_without_anything_are_learned_from_and_in_fp32(served):
    ours = copy.deepcopy(served.model).train()
    loss, _ = losses.mask_loss(ours, batch_of([[-1] * 3] * 2))
    assert loss.isfinite() and loss > 0
    with torch.autocast("cpu", torch.bfloat16):
        loss, parts = losses.mask_loss(ours, batch_of([[3, 5, -1], [0, -1, -1]]))
    assert loss.dtype == torch.float32 and loss.isfinite() and parts["loss_mask"].dtype == torch.float32


# --- beginnings ------------------------------------------------------------------------------------------------------


def test_a_swin_says_the_same_in_a_maskformer(tmp_path):
    sizes = {"embed_dim": 12, "depths": [1, 2, 1], "num_heads": [2, 2, 4], "window_size": 4, "patch_size": 2}
    torch.manual_seed(0)
    theirs = SwinModel(SwinConfig(image_size=32, **sizes), add_pooling_layer=False).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    theirs.save_pretrained(tmp_path / "swin")
    stages = ["stage1", "stage2", "stage3"]
    ours = AutoBackbone.from_config(MaskFormerSwinConfig(image_size=32, out_features=stages, **sizes)).eval()
    matching = set(theirs.state_dict()) & set(ours.model.state_dict())
    assert len(matching) < len(theirs.state_dict()) / 2  # names have to be mapped
    missing, unexpected = ours.model.load_state_dict(towers.as_maskformer(theirs), strict=False)
    assert unexpected == [] and all(name.endswith("relative_position_index") for name in missing)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        wanted = AutoBackbone.from_config(SwinConfig(image_size=32, out_features=stages, **sizes)).eval()
        wanted.swin.load_state_dict(theirs.state_dict())
        for one, other in zip(ours(x).feature_maps, wanted(x).feature_maps, strict=True):  # fresh norms of both are 1
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    args = dict(TINY.model_args) | {"layers": 1}
    cfg = dataclasses.replace(TINY, tower_name_or_path=str(tmp_path / "swin"), model_args=args)
    begun = model.backbone_of(model.create_model(cfg, ["a"]).model).eval()
    with torch.no_grad():
        for one, other in zip(begun(x).feature_maps, wanted(x).feature_maps, strict=True):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    with pytest.raises(SystemExit, match="--resolution 36 is no multiple of 8"):
        model.create_model(dataclasses.replace(cfg, resolution=36), ["a"])


def test_the_shipped_swin_says_the_same_but_for_its_absolute_positions(capsys):
    cfg = dataclasses.replace(TINY, tower_name_or_path="segmentation/swin-scenes", resolution=128)
    ours = model.backbone_of(model.create_model(cfg, LABELS).model).eval()
    assert "absolute positions of its Swin are left out" in capsys.readouterr().out
    tower = beginnings.swin_of(beginnings.tower_folder("swin-scenes")).eval()
    x = torch.randn(1, 3, 128, 128)
    with torch.no_grad():
        tower.embeddings.position_embeddings.zero_()
        torch.testing.assert_close(ours.model(x).last_hidden_state, tower(x).last_hidden_state, atol=1e-4, rtol=1e-4)


# --- scores ----------------------------------------------------------------------------------------------------------


def masked(rows: list[tuple[int, int]], labels: list[int], values: list[float] | None = None):
    """Things whose masks are the rows from …, to … of a picture of 10 × 10; found ones where there are scores."""
    masks = np.zeros((len(rows), 10, 10), bool)
    for mask, (low, high) in zip(masks, rows, strict=True):
        mask[low:high] = True
    boxes, named = detection.boxes_of(masks), np.array(labels, np.int64)
    if values is None:
        return Things(boxes, named, masks)
    return detection.Detections(boxes, named, np.array(values, np.float32), ["a", "b"], masks)


@pytest.mark.parametrize(
    "found, truth, map50, whole",
    [
        (([(0, 4), (6, 9)], [0, 1], [0.9, 0.1]), ([(0, 4), (6, 9)], [0, 1]), 1, None),
        (([(0, 4), (6, 9)], [1, 0], [0.9, 0.1]), ([(0, 4), (6, 9)], [0, 1]), 0, None),
        # 7 of 10 rows: right at 0.5, 0.55, 0.6, 0.65 and 0.7, which are half of the thresholds.
        (([(0, 7)], [0], [0.5]), ([(0, 10)], [0]), 1, 0.5),
        # 4 of 10 rows: never right
        (([(0, 4)], [0], [0.5]), ([(0, 10)], [0]), 0, None),
        # The surest is wrong: precision 1/2 up to the half of the things that are found, at 51 of COCO's 101 places.
        (([(8, 10), (0, 4)], [0, 0], [0.9, 0.8]), ([(0, 4), (5, 8)], [0, 0]), 51 / 101 / 2, None),
    ],
)
def test_average_precision_of_masks_by_hand(found, truth, map50, whole):
    measured, per_class = scores.average_precision([masked(*found)], [masked(*truth)], ["a", "b"], masks=True)
    assert measured["mask_map50"] == pytest.approx(map50, abs=1e-6)
    assert measured["mask_map"] == pytest.approx(map50 if whole is None else whole, abs=1e-6)
    assert np.mean(list(per_class["mask_map"].values())) == pytest.approx(measured["mask_map"], abs=1e-6)


def test_a_mask_is_not_measured_by_its_box():
    """A frame and what it encloses have one box, and share no pixel."""
    frame = np.ones((1, 10, 10), bool)
    frame[0, 2:8, 2:8] = False
    found = detection.Detections(
        np.array([[0, 0, 10, 10]], np.float32), np.zeros(1, int), np.ones(1, "f4"), ["a"], frame
    )
    inside = Things(np.array([[0, 0, 10, 10]], np.float32), np.zeros(1, int), ~frame)
    measured, _ = scores.average_precision([found], [inside], ["a"], masks=True)
    assert measured["map50"] == 1 and measured["mask_map50"] == 0


# --- a training ------------------------------------------------------------------------------------------------------


def outlined(folder: Path) -> Path:
    """Rectangles of two colours, with COCO's files and polygons beside them."""
    for split, count in (("train", 6), ("valid", 3)):
        (folder / split).mkdir(parents=True)
        images, notes = [], []
        for k in range(count):
            picture = Image.new("RGB", (40, 30), (128, 128, 128 + k))
            for category, colour in enumerate(("red", "green")[: k % 3]):
                left, top = 4 + 18 * category, 6
                ImageDraw.Draw(picture).rectangle((left, top, left + 13, top + 15), fill=colour)
                polygon = [left, top, left + 14, top, left + 14, top + 16, left, top + 16]
                notes.append({"id": len(notes), "image_id": k, "category_id": category, "bbox": [left, top, 14, 16]})
                notes[-1]["segmentation"] = [polygon]
            picture.save(folder / split / f"{k}.png")
            images.append({"id": k, "file_name": f"{k}.png", "width": 40, "height": 30})
        named = [{"id": 0, "name": "red"}, {"id": 1, "name": "green"}]
        said = {"images": images, "annotations": notes, "categories": named}
        (folder / split / "_annotations.coco.json").write_text(json.dumps(said))
    return folder


def test_a_persons_own_masks_are_learned_measured_and_learned_on(tmp_path, capsys):
    mine, run = outlined(tmp_path / "mine"), tmp_path / "run"
    argv = [
        "--preset",
        "tiny",
        "--cpu",
        "--architecture",
        "maskformer",
        "--dataset_name",
        str(mine),
        "--output_dir",
        str(run),
    ]
    script.main(argv)
    assert "validation/mask_map50" in capsys.readouterr().out
    found = detection.load(str(run / "export"), "cpu")
    assert found.makes_masks and found.label_names == ["green", "red"] and found.world is not None
    measured = evaluation.evaluate_checkpoint(str(run / "export"), str(mine)).as_json()
    assert {"validation/mask_map", "validation/mask_map50", "validation/map50"} <= set(measured["metrics"])
    assert set(measured["per_class"]["validation/mask_map"]) == {"green", "red"}
    card = (run / "export" / "README.md").read_text()
    assert "pipeline_tag: image-segmentation" in card and 'subtask="instance"' in card
    assert store.verify(run / "export", manifest_required=True) is None
    cfg = dataclasses.replace(
        TINY, architecture="deim", pretrained_model_name_or_path=str(run / "export"), resolution=48
    )
    assert model.learns_masks(cfg)
    started = model.start_from(cfg, ["x", "y", "z"])
    assert started.resolution_px == 48 and started.model.class_predictor.out_features == 4
    assert len(started.detect([Image.new("RGB", (50, 40))], 0)[0].label_names) == 3
    boxed = dataclasses.replace(
        cfg, architecture="rcnn", pretrained_model_name_or_path=str(tiny_models.detector(tmp_path / "b"))
    )
    with pytest.raises(SystemExit, match="makes boxes alone"):
        model.learns_masks(boxed)
