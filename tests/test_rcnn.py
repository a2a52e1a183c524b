"""Mask R-CNN on a Swin: torchvision's answers in transformers' folders, what it learns from, and other classes."""

import copy
import dataclasses
import json

import numpy as np
import pytest
import tiny_models
import torch
from children import run
from PIL import Image
from test_smoke import _script, losses_of, weights_in
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import MultiScaleRoIAlign

from hub_models import detection, rcnn, store
from training import beginnings
from training import detection as script
from training.data.boxes import open_boxes
from training.detection import losses, model, samples, scores

TINY = dataclasses.replace(script.PRESETS["tiny"], cpu=True, architecture="rcnn")
TINY = dataclasses.replace(TINY, model_args=dict(TINY.model_args) | {"drop_path_rate": 0.0})
LABELS = [f"class {k}" for k in range(12)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_models.detector(tmp_path_factory.mktemp("detector") / "rcnn", "rcnn")


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    return tiny_models.noise((32, 32), (40, 64), (48, 20))


def test_torchvisions_own_class_says_the_same(folder):
    """The weights in a MaskRCNN that was put together here, which resizes and normalizes by itself."""
    ours = detection.load(str(folder), "cpu")
    levels, maps = ["0", "1"], {"canonical_scale": 16, "canonical_level": 3}
    stock = MaskRCNN(
        copy.deepcopy(ours.model.pyramid), min_size=32, max_size=32, image_mean=[0.0] * 3, image_std=[1.0] * 3,
        rpn_anchor_generator=AnchorGenerator(((8, 12), (16, 24)), ((0.6, 1.0, 1.6),) * 2),
        rpn_pre_nms_top_n_test=200, rpn_post_nms_top_n_test=60, box_score_thresh=0.02, box_detections_per_img=6,
        box_roi_pool=MultiScaleRoIAlign(levels, 7, 1, **maps), box_head=TwoMLPHead(16 * 49, 16),
        box_predictor=FastRCNNPredictor(16, 4), mask_roi_pool=MultiScaleRoIAlign(levels, 14, 1, **maps),
        mask_head=MaskRCNNHeads(16, [16, 16], 1), mask_predictor=MaskRCNNPredictor(16, 16, 4),
    )  # fmt: skip
    stock.load_state_dict(ours.model.rcnn.state_dict())
    draw = np.random.default_rng(1)
    picture = Image.fromarray(draw.integers(0, 256, (32, 32, 3), dtype=np.uint8))
    [inputs], [found] = ours.preprocess([picture]), ours.detect([picture], 0)
    with torch.no_grad():
        [theirs] = stock.eval()([inputs["pixel_values"][0]])
    kept = (theirs["masks"][:, 0] > 0.5).flatten(1).any(1)
    assert len(found) == kept.sum() > 1
    assert found.scores == pytest.approx(theirs["scores"][kept].numpy(), abs=1e-5)
    assert found.labels.tolist() == (theirs["labels"][kept] - 1).tolist()
    assert np.array_equal(found.masks, theirs["masks"][kept, 0].numpy() > 0.5)
    answered = ours.model(**inputs)
    corners = detection.boxes_of(found.masks)
    assert np.array_equal(found.boxes, corners) and answered.pred_boxes.shape == (1, len(kept), 4)
    low = answered.pred_boxes[0, : len(kept), :2] - answered.pred_boxes[0, : len(kept), 2:] / 2
    torch.testing.assert_close(low * 32, theirs["boxes"][:, :2], atol=1e-3, rtol=0)


def test_saved_again_it_finds_the_same_whatever_the_size_of_the_picture(folder, pictures, tmp_path):
    ours = detection.load(str(folder), "cpu")
    assert ours.makes_masks and ours.kind == rcnn.KIND and ours.resolution_px == 32
    ours.threshold, ours.overlap = 0.25, 0.4
    detection.save_folder(tmp_path / "again", ours)
    again = detection.load(str(tmp_path / "again"), "cpu")
    assert (again.threshold, again.overlap) == (0.25, 0.4)
    for picture, one, other in zip(pictures, ours.detect(pictures, 0), again.detect(pictures, 0), strict=True):
        assert len(one) and one.masks.shape[1:] == picture.size[::-1]
        assert np.array_equal(one.masks, other.masks) and one.scores.tobytes() == other.scores.tobytes()


def test_what_it_learns_from_and_how_boxes_lie_around_masks():
    torch.manual_seed(0)
    served = model.create_model(TINY, LABELS)
    source = open_boxes("scenes-sample", split="train", resolution_px=32, limit=10, masks=True)
    cfg = dataclasses.replace(TINY, scale=(1.0, 1.0), color_jitter=0.0, grayscale=0.0)
    one = samples.BoxedPictures(source, cfg, served).sample(3, torch.Generator().manual_seed(0))
    _, things = source.pair(3)
    assert one["masks"].shape[1:] == (32, 32) and np.array_equal(one["masks"][: len(things)].numpy(), things.masks)
    seen = []

    def noted(pixel_values, labels):
        seen.extend(labels)
        return rcnn.RcnnOutput(loss=torch.zeros(()), loss_dict={"loss_mask": torch.zeros(())})

    thin = {key: value[None].clone() for key, value in one.items()}
    thin["masks"][0, 0] *= 0.4  # of no pixel the half
    for batch in ({key: value[None] for key, value in one.items()}, thin):
        losses.rcnn_loss(noted, batch)
    assert torch.equal(seen[0]["boxes"], torch.from_numpy(things.boxes).float())
    assert seen[0]["class_labels"].tolist() == things.labels.tolist() and seen[0]["masks"].dtype == torch.uint8
    assert torch.equal(seen[1]["boxes"], seen[0]["boxes"][1:])
    assert seen[1]["class_labels"].tolist() == things.labels[1:].tolist()


def test_it_learns_a_batch_and_pictures_without_anything_are_learned_from():
    torch.manual_seed(0)
    ours = model.create_model(dataclasses.replace(TINY, model_args=dict(TINY.model_args) | {"head": 32}), LABELS).model
    masks = torch.zeros(2, 3, 32, 32)
    masks[0, 0, 4:20, 6:18] = masks[0, 1, 22:30, 2:30] = 1
    pixels = torch.zeros(2, 3, 32, 32)
    pixels[0, 0] += masks[0, 0]
    pixels[0, 1] += masks[0, 1]
    batch = {"pixels": pixels, "masks": masks, "labels": torch.tensor([[3, 5, -1], [-1, -1, -1]])}
    learner, totals = torch.optim.Adam(ours.train().parameters(), 3e-3), []
    for _ in range(60):
        loss, parts = losses.rcnn_loss(ours, batch)
        learner.zero_grad()
        loss.backward()
        learner.step()
        totals.append(float(loss.detach()))
    assert np.mean(totals[-5:]) < 0.5 * np.mean(totals[:5]) and {"loss_mask", "loss_objectness"} <= set(parts)
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = losses.rcnn_loss(ours, batch)
    assert loss.dtype == torch.float32 and loss.isfinite()
    empty = {key: value[1:] for key, value in batch.items()}
    assert losses.rcnn_loss(ours, empty)[0].isfinite()
    found = ours.eval()(pixels)
    assert int(found.logits[0].max(1).values.argmax()) == 0 and (found.logits[0, 0].argmax()) in (3, 5)


def test_other_classes_get_new_class_layers_and_all_else_is_kept(folder):
    cfg = dataclasses.replace(TINY, architecture="deim", pretrained_model_name_or_path=str(folder), resolution=48)
    assert model.learns_masks(cfg)
    torch.manual_seed(0)
    before, started = detection.load(str(folder), "cpu").model, model.start_from(cfg, list("vwxyz"))
    assert started.resolution_px == 48 and started.label_names == list("vwxyz")
    old, new = before.state_dict(), started.model.state_dict()
    other = {name for name in old if old[name].shape != new[name].shape}
    assert other == {
        f"rcnn.roi_heads.{part}.{kind}"
        for part in ("box_predictor.cls_score", "box_predictor.bbox_pred", "mask_predictor.mask_fcn_logits")
        for kind in ("weight", "bias")
    }
    assert all(torch.equal(old[name], new[name]) for name in set(old) - other)
    assert all(new[name].isfinite().all() and new[name].abs().max() < 1 for name in other)
    assert len(started.detect([Image.new("RGB", (50, 40))], 0)[0].label_names) == 5


def test_it_begins_as_the_shipped_swin_positions_and_all():
    cfg = dataclasses.replace(TINY, tower_name_or_path="segmentation/swin-scenes", resolution=128)
    encoder = model.backbone_of(model.create_model(cfg, LABELS).model).eval()
    tower = beginnings.swin_of(beginnings.tower_folder("swin-scenes")).eval()
    x = torch.randn(1, 3, 128, 128)
    with torch.no_grad():
        torch.testing.assert_close(encoder.swin(x).last_hidden_state, tower(x).last_hidden_state)
    assert [stage.shape[-1] for stage in encoder(x).feature_maps] == [32, 16, 8]


def test_a_config_with_sides_for_other_maps_is_refused():
    with pytest.raises(ValueError, match="sides for 3 maps, the backbone has 1"):
        rcnn.SwinMaskRCNN(rcnn.RcnnConfig())


def test_who_finds_nothing_has_a_precision_of_nought():
    none = detection.Detections(np.zeros((0, 4), "f4"), np.zeros(0, int), np.zeros(0, "f4"), ["a", "b"])
    masks = np.ones((1, 8, 8), bool)
    truth = scores.Things(detection.boxes_of(masks), np.array([1]), masks)
    blank = dataclasses.replace(none, masks=np.zeros((0, 8, 8), bool))
    measured, per_class = scores.average_precision([blank], [truth], ["a", "b"], masks=True)
    assert measured == {"map": 0, "map50": 0, "mask_map": 0, "mask_map50": 0}
    assert per_class == {"map": {"b": 0}, "mask_map": {"b": 0}}


@pytest.mark.smoke
@pytest.mark.timeout(600)
def test_killed_and_resumed_it_is_the_same_and_what_its_card_says_works(tmp_path):
    """Its proposals and parts are drawn by torchvision, from generators that a checkpoint has to hold."""

    def train(folder, *flags, die=0, code=0):
        argv = ["--preset", "tiny", "--cpu", "--architecture", "rcnn", "--output_dir", str(folder), *flags]
        got, text = run(_script, "detection", argv, die, log=folder.with_suffix(".log"))
        assert got == code, text

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train(whole)
    train(killed, die=1, code=-9)
    train(killed, "--resume_from_checkpoint", "latest")
    assert weights_in(killed / "export") == weights_in(whole / "export") and losses_of(killed) == losses_of(whole)
    store.verify(whole / "export", manifest_required=True)
    usage = json.loads((whole / "export/run.json").read_text())["usage"]
    Image.new("RGB", (40, 30)).save(tmp_path / "picture.png")
    known: dict = {}
    exec(usage.replace("org/name", str(whole / "export")).replace("picture.png", str(tmp_path / "picture.png")), known)
    assert known["found"].masks.shape[1:] == (30, 40)
