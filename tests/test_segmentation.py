"""training/segmentation: metrics and loss by hand, augmentation, class layers, and fine-tuning on a folder of masks."""

import dataclasses
import json
import random
import shutil

import numpy as np
import pytest
import timm
import tiny_models
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import AutoModelForSemanticSegmentation, VisionEncoderDecoderModel, VisionTextDualEncoderModel

from hub_models import components, store
from hub_models import segmentation as contract
from training import evaluate, metrics, segmentation
from training.data.facts import facts_of, put_card
from training.data.masks import open_masks
from training.data.sources import DataError
from training.segmentation.model import create_model

TINY = segmentation.PRESETS["tiny"]


# --- Metrics, against numbers worked by hand --------------------------------------------------------------------------


def test_iou_by_hand():
    conf = np.array([[50, 10, 0, 0], [5, 30, 0, 0], [0, 5, 0, 0], [0, 0, 0, 0]])  # class 2 never found, class 3 nowhere
    np.testing.assert_allclose(metrics.iou(conf)[:3], [50 / 65, 30 / 50, 0])
    assert np.isnan(metrics.iou(conf)[3])
    assert metrics.mean_iou(conf) == pytest.approx((50 / 65 + 30 / 50) / 3)
    assert metrics.foreground_iou(conf) == pytest.approx(35 / 50)  # 30 + 5 inside both, all but the 50 in either
    assert metrics.foreground_iou(np.diag([7, 0])) == 1
    with pytest.raises(ValueError, match="empty"):
        metrics.mean_iou(np.zeros((2, 2)))


def test_calibration_and_risk_by_hand():
    confidence, right = np.array([0.9, 0.9, 0.9, 0.9, 0.6, 0.6]), np.array([1, 1, 1, 0, 1, 0], bool)
    table = metrics.confidence_table(confidence, right)
    parts = [metrics.confidence_table(confidence[s], right[s]) for s in (slice(3), slice(3, None))]
    np.testing.assert_array_equal(table, parts[0] + parts[1])
    assert metrics.expected_calibration_error(table) == pytest.approx((4 * abs(0.9 - 0.75) + 2 * abs(0.6 - 0.5)) / 6)
    curve = metrics.risk_coverage(table)
    at = {threshold: (c, r) for threshold, c, r in zip(*curve.values(), strict=True)}
    assert at[0.0] == at[0.6] == pytest.approx((1, 2 / 6), abs=1e-5)
    assert at[0.61] == at[0.9] == pytest.approx((4 / 6, 1 / 4), abs=1e-5)
    assert at[0.95] == pytest.approx((0, 1 / 4), abs=1e-5)
    assert metrics.confidence_table(np.array([1.0]), np.array([True]))[0, -1] == 1


def test_scores_by_source_by_hand():
    confs = [np.array([[3, 1], [0, 4]]), np.array([[1, 0], [2, 1]]), np.array([[0, 0], [0, 5]])]
    found = segmentation.evaluation.by_source(["a", "b", "a"], confs)
    assert found == {"a/pixel_accuracy": pytest.approx(12 / 13), "b/pixel_accuracy": pytest.approx(2 / 4)}


def test_temperature_undoes_a_factor():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(40_000, 4)) * 2
    chance = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = (chance.cumsum(1) < rng.random((len(logits), 1))).sum(1)
    assert metrics.fit_temperature(logits, labels) == pytest.approx(1, rel=0.03)
    assert metrics.fit_temperature(logits * 3, labels) == pytest.approx(3, rel=0.03)
    with pytest.raises(ValueError, match="finite"):
        metrics.fit_temperature(np.full((2, 2), np.nan), np.zeros(2, int))


def test_principal_components_of_a_known_cloud():
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    rows = rng.normal(size=(20_000, 5)) * [9, 5, 3, 0.1, 0.1] @ axes.T + 2
    mean, basis = components.principal_components(rows, 3)
    np.testing.assert_allclose(mean, 2, atol=0.2)
    np.testing.assert_allclose(np.abs(np.sum(basis * axes[:, :3], 0)), 1, atol=1e-2)
    np.testing.assert_allclose(basis.T @ basis, np.eye(3), atol=1e-9)
    assert (np.take_along_axis(basis, np.abs(basis).argmax(0)[None], 0) > 0).all()


# --- The loss ---------------------------------------------------------------------------------------------------------


def test_dice_by_hand():
    chance = torch.tensor([[[[0.8, 0.4]], [[0.1, 0.5]], [[0.1, 0.1]]]])  # (1, 3, 1, 2)
    mask = torch.tensor([[[0, 1]]])
    expected = 1 - (2 * 0.8 / (0.8 + 0.4 + 1) + 2 * 0.5 / (0.1 + 0.5 + 1)) / 2  # class 2 isn't in the truth
    assert segmentation.losses.dice_loss(chance, mask).item() == pytest.approx(expected, abs=1e-6)


def test_what_has_no_answer_does_not_count():
    logits, mask = torch.randn(2, 3, 8, 8), torch.randint(0, 3, (2, 8, 8))
    mask[:, :, 4:] = 255
    loss, parts = segmentation.losses.training_loss(logits, mask, dice_weight=0.5)
    assert parts["cross_entropy"].item() == pytest.approx(
        F.cross_entropy(logits, mask, ignore_index=255).item(), rel=1e-5
    )
    half, _ = segmentation.losses.training_loss(logits[..., :4], mask[..., :4], dice_weight=0.5)
    assert loss.item() == pytest.approx(half.item(), rel=1e-5)
    blank = torch.randn(1, 3, 4, 4, requires_grad=True)
    nothing, _ = segmentation.losses.training_loss(blank, torch.full((1, 4, 4), 255), dice_weight=0.5)
    nothing.backward()
    assert nothing.item() == 0 and torch.isfinite(blank.grad).all()


def test_class_weights_keep_the_mean():
    weight = segmentation.losses.class_weights({0: 900, 1: 100, 255: 7}, 3, 0.5)
    assert (900 * weight[0] + 100 * weight[1]).item() == pytest.approx(1000, rel=1e-5)
    assert (weight[1] / weight[0]).item() == pytest.approx(3) and weight[2] == 0
    assert segmentation.losses.class_weights({0: 1}, 1, 0.0) is None


# --- Picture and mask move together -----------------------------------------------------------------------------------


def halves(size=(60, 40)) -> tuple[Image.Image, np.ndarray]:
    """A picture that is black on class 0 and white on class 1, a slanted edge between."""
    x, y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    mask = (x + y > 45).astype(np.int64)
    return Image.fromarray((mask * 255).astype(np.uint8)).convert("RGB"), mask


@pytest.mark.parametrize("zoom", [20, 60, 150])
def test_cut_takes_the_same_place_of_both(zoom):
    picture, mask = halves()
    for seed in range(5):
        piece, truth = segmentation.samples.cut(picture, mask, zoom, 32, random.Random(seed))
        assert piece.size == (32, 32) and truth.shape == (32, 32)
        answered = truth != 255
        assert answered.all() == (zoom > 20), "the picture is smaller than the square at 20 px"
        bright = np.asarray(piece.convert("L")) > 127
        assert (bright == truth)[answered].mean() > 0.95


def test_samples_follow_their_draw_and_the_processor(tmp_path):
    class Halves:
        data_hash, pair, preload = "x", staticmethod(lambda index: halves()), staticmethod(lambda: None)

        def __len__(self):
            return 1

    cfg = dataclasses.replace(TINY, random_flip=True)
    served = segmentation.model.create_model(cfg, ["dark", "light"])
    samples = segmentation.samples.MaskedPictures(Halves(), cfg, served)
    one, same, other = (samples.sample(0, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert torch.equal(one["pixels"], same["pixels"]) and torch.equal(one["mask"], same["mask"])
    assert not torch.equal(one["pixels"], other["pixels"])
    assert one["pixels"].shape == (3, 32, 32) and one["mask"].dtype == torch.int64
    light, dark = (one["pixels"].mean(0)[one["mask"] == k].mean() for k in (1, 0))
    assert light > dark + 0.5, "a flip has to turn both"


# --- The model --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preset", "kind"),
    [("swin", "swin"), ("dpt", "dpt"), ("unet", "unet"), ("street", "upernet"), ("photo", "upernet")],
)
def test_presets_fit_into_8_mib(preset, kind):
    cfg = segmentation.PRESETS[preset]
    served = segmentation.model.create_model(cfg, [f"class {k}" for k in range(13)])
    assert served.kind == kind and served.parameters <= 4.0e6
    assert served.resolution_px == cfg.resolution


@pytest.mark.parametrize("kind", ["swin", "unet", "segformer"])
def test_the_class_layer_is_made_anew_where_classes_differ(kind, tmp_path, capsys):
    base = tiny_models.segmenter(tmp_path / "base", kind)
    cfg = dataclasses.replace(TINY, pretrained_model_name_or_path=str(base), dataset_name="mine")
    kept = segmentation.model.start_from(cfg, ["background", "face", "plant"])
    assert "made anew" not in capsys.readouterr().out
    served = segmentation.model.start_from(cfg, ["road", "sky", "car", "tree", "dog"])
    said = capsys.readouterr().out
    assert "3 classes" in said and "mine has 5" in said and "class layer is made anew" in said
    before, after = kept.model.state_dict(), served.model.state_dict()
    changed = {name for name in before if before[name].shape != after[name].shape}
    assert changed and all(torch.equal(before[n], after[n]) for n in before.keys() - changed)
    contract.save_folder(tmp_path / "saved", served)
    again = contract.load(str(tmp_path / "saved"), device="cpu")
    assert again.label_names == ["road", "sky", "car", "tree", "dog"]
    assert again.predict(Image.new("RGB", (32, 32))).probabilities.shape[0] == 5


def test_a_plain_vit_keeps_its_resolution(tmp_path):
    base = tiny_models.segmenter(tmp_path / "base", "dpt")
    cfg = dataclasses.replace(TINY, pretrained_model_name_or_path=str(base), resolution=64)
    with pytest.raises(SystemExit, match="--resolution"):
        segmentation.model.start_from(cfg, ["a", "b"])


def test_a_swin_can_begin_as_the_tower_of_another_model(tmp_path):
    clip, captioner = tiny_models.dual_encoder(tmp_path / "clip"), tiny_models.captioner(tmp_path / "captioner")
    for folder, given in (
        (clip, VisionTextDualEncoderModel.from_pretrained(clip).vision_model.state_dict()),
        (captioner, VisionEncoderDecoderModel.from_pretrained(captioner).encoder.state_dict()),
    ):
        cfg = dataclasses.replace(TINY, tower_name_or_path=str(folder), base_lr_scale=0.5)
        served = segmentation.model.create_model(cfg, ["a", "b"])
        taken = served.model.backbone.swin.state_dict()
        assert taken.keys() == given.keys() and all(torch.equal(taken[name], given[name]) for name in given)
        slow = {
            id(p)
            for group in segmentation.model.slower_base(served.model, cfg)
            if group["lr_scale"] == 0.5
            for p in group["params"]
        }
        assert slow == {id(p) for p in served.model.backbone.swin.parameters()}
        contract.save_folder(tmp_path / "saved", served)
        assert contract.load(str(tmp_path / "saved"), device="cpu").kind == "swin"
        assert store.weights_sha256(folder)[:12] in segmentation.model.describe_start(cfg)
    with pytest.raises(SystemExit, match="set --resolution"):  # the captioner has positions for 32 px
        segmentation.model.create_model(dataclasses.replace(cfg, resolution=64), ["a", "b"])
    for backbone in ("unet", "dpt"):
        with pytest.raises(SystemExit, match="begin as a classifier of timm"):
            segmentation.model.create_model(dataclasses.replace(cfg, backbone=backbone, model_args={}), ["a", "b"])
    with pytest.raises(ValueError, match="exclude each other"):
        dataclasses.replace(cfg, pretrained_model_name_or_path="swin-scenes")
    other = tiny_models.segmenter(tmp_path / "other", "segformer")
    with pytest.raises(SystemExit, match="no Swin in the segformer"):
        segmentation.model.create_model(dataclasses.replace(cfg, tower_name_or_path=str(other)), ["a", "b"])


def test_a_dpt_and_a_unet_begin_as_networks_of_timm(tmp_path):
    torch.manual_seed(0)
    names = {"num_classes": 3, "label_names": list("abc")}
    vit = timm.create_model("vit_tiny_patch16_224", pretrained=False, img_size=32, patch_size=8, embed_dim=24, depth=4,
                            num_heads=3, num_classes=3)  # fmt: skip
    args = {"img_size": [32, 32], "patch_size": 8, "embed_dim": 24, "depth": 4, "num_heads": 3}
    timm.models.save_for_hf(vit, str(tmp_path / "vit"), model_config=names, model_args=args, safe_serialization=True)
    net = timm.create_model("regnetx_002", pretrained=False, num_classes=3)
    timm.models.save_for_hf(net, str(tmp_path / "net"), model_config=names, safe_serialization=True)
    for backbone, name, part, kernel in (
        ("dpt", "vit", "dpt", lambda model: model.dpt.embeddings.patch_embeddings.projection.weight),
        ("unet", "net", "encoder", lambda model: model.encoder.model.stem.conv.weight),
    ):
        cfg = dataclasses.replace(
            TINY, backbone=backbone, model_args={}, tower_name_or_path=str(tmp_path / name), base_lr_scale=0.5
        )
        served = segmentation.model.create_model(cfg, ["a", "b"])
        given = vit.patch_embed.proj.weight if name == "vit" else net.stem.conv.weight
        assert torch.equal(kernel(served.model), given)
        slow = [group for group in segmentation.model.slower_base(served.model, cfg) if group["lr_scale"] == 0.5]
        assert {id(p) for group in slow for p in group["params"]} == {
            id(p) for p in getattr(served.model, part).parameters()
        }
        contract.save_folder(tmp_path / f"saved-{name}", served)
        assert contract.load(str(tmp_path / f"saved-{name}"), device="cpu").kind == backbone
    with pytest.raises(SystemExit, match="as its encoder"):
        segmentation.model.create_model(dataclasses.replace(cfg, tower_name_or_path=str(tmp_path / "vit")), ["a", "b"])
    with pytest.raises(SystemExit, match="a plain ViT of timm"):
        segmentation.model.create_model(
            dataclasses.replace(cfg, backbone="dpt", tower_name_or_path=str(tmp_path / "net")), ["a", "b"]
        )


# --- A folder of somebody's own pictures and masks --------------------------------------------------------------------


@pytest.fixture(scope="module")
def own_data(tmp_path_factory):
    """24 + 6 pictures of a red disc or a blue square on grey, with masks; no names of ours in it."""
    root, rng = tmp_path_factory.mktemp("own"), np.random.default_rng(0)
    for split, count in (("train", 24), ("validation", 6)):
        (root / split / "images").mkdir(parents=True)
        (root / split / "masks").mkdir()
        rows = []
        for i in range(count):
            width, height = (48, 40) if i % 2 else (36, 52)
            pixels = np.full((height, width, 3), 128) + rng.integers(-20, 20, (height, width, 3))
            mask = np.zeros((height, width), np.uint8)
            y, x = np.mgrid[:height, :width]
            cy, cx = rng.integers(10, height - 10), rng.integers(10, width - 10)
            inside = np.hypot(y - cy, x - cx) < 9 if i % 4 < 2 else np.maximum(abs(y - cy), abs(x - cx)) < 8
            kind = 1 if i % 4 < 2 else 2
            mask[inside], pixels[inside] = kind, ((220, 30, 30) if kind == 1 else (30, 30, 220))
            mask[0] = 255
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / split / "images" / f"{i}.png")
            Image.fromarray(mask).save(root / split / "masks" / f"{i}.png")
            rows.append(json.dumps({"file_name": f"images/{i}.png", "label_file_name": f"masks/{i}.png"}))
        (root / split / "metadata.jsonl").write_text("\n".join(rows) + "\n")
    (root / "id2label.json").write_text(json.dumps({"0": "ground", "1": "disc", "2": "square"}))
    return root


def flags(own_data, base, run_dir, steps: int) -> list[str]:
    return ["--preset", "finetune", "--cpu", "--dataset_name", str(own_data), "--resolution", "32",
            "--pretrained_model_name_or_path", str(base), "--output_dir", str(run_dir), "--max_train_steps", str(steps),
            "--learning_rate", "5e-3", "--base_lr_scale", "1", "--lr_warmup_steps", "5", "--ema_decay", "0.8",
            "--scale", "0.8", "1.3", "--validation_steps", "1000", "--checkpointing_steps", "1000"]  # fmt: skip


def test_fine_tuning_on_somebodys_folder(own_data, tmp_path, capsys):
    base = tiny_models.segmenter(tmp_path / "base", "swin", ["background", "face"])
    segmentation.main(flags(own_data, base, tmp_path / "run", 60))
    assert "class layer is made anew" in capsys.readouterr().out
    export = tmp_path / "run" / "export"
    store.verify(export, manifest_required=True)
    served = contract.load(str(export), device="cpu")
    assert served.label_names == ["ground", "disc", "square"]
    assert served.pca and served.risk_coverage and served.temperature != 1
    results = segmentation.evaluate_checkpoint(str(export), str(own_data))
    assert results.metrics["validation/miou"] > 0.7 > results.baseline["validation/miou"]
    assert results.metrics["validation/ece"] < 0.2
    conf = np.array(results.curves["validation/confusion"])
    assert conf.sum() == sum(size * 39 if size == 48 else size * 51 for size in (36, 48) for _ in range(3)), (
        "255 is left out"
    )
    assert results.per_class["validation"]["disc"] == pytest.approx(metrics.iou(conf)[1])
    assert results.figures["validation"].mode == "RGB"
    assert evaluate.trained_on(export) == str(own_data)
    with pytest.raises(SystemExit, match="--dataset"):
        segmentation.evaluate_checkpoint(str(base), str(own_data))


def test_camvid_is_for_research_and_its_photographs_are_not_passed_on(own_data, tmp_path):
    data = tmp_path / "streets"
    shutil.copytree(own_data, data)
    put_card("camvid", data)
    base = tiny_models.segmenter(tmp_path / "base", "swin", ["ground", "disc", "square"])
    segmentation.main(flags(data, base, tmp_path / "run", 1))
    export = tmp_path / "run" / "export"
    assert json.loads((export / "run.json").read_text())["license"] == "other"
    card = (export / "README.md").read_text()
    assert (
        "license_name: camvid-research-use" in card and "These weights: `other`, [camvid-research-use](https://" in card
    )
    assert "For research" in card
    assert segmentation.evaluate_checkpoint(str(export), str(data)).figures == {}


def test_upernet_begins_as_a_backbone_of_timm_and_the_stock_class_opens_it(own_data, tmp_path):
    torch.manual_seed(0)
    backbone = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=7)
    names = {"num_classes": 7, "label_names": list("abcdefg")}
    timm.models.save_for_hf(backbone, str(tmp_path / "photo"), model_config=names, safe_serialization=True)
    argv = ["--preset", "photo", "--dataset_name", str(own_data), "--tower_name_or_path", str(tmp_path / "photo"),
            "--output_dir", str(tmp_path / "run"), "--resolution", "64", "--max_side_px", "64",
            "--train_batch_size", "2", "--max_train_steps", "1", "--learning_rate", "1e-9",
            "--validation_pictures", "1"]  # fmt: skip
    segmentation.main(argv)
    export = tmp_path / "run" / "export"
    served = contract.load(str(export))
    kernel = served.model.backbone._backbone.conv_stem.weight
    torch.testing.assert_close(kernel, backbone.conv_stem.weight.detach(), atol=1e-3, rtol=1e-3)
    assert "its backbone began as" in (export / "README.md").read_text()
    stock, pixels = AutoModelForSemanticSegmentation.from_pretrained(export).eval(), torch.randn(1, 3, 64, 64)
    assert stock.dtype == torch.float32
    with torch.no_grad():
        torch.testing.assert_close(stock(pixels).logits, served.model(pixels).logits, atol=1e-5, rtol=1e-5)
    with pytest.raises(SystemExit, match="strides"):
        plain = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=7)
        timm.models.save_for_hf(plain, str(tmp_path / "vit"), model_config=names, safe_serialization=True)
        segmentation.main(
            [*argv[:4], "--tower_name_or_path", str(tmp_path / "vit"), "--output_dir", str(tmp_path / "no")]
        )


def test_a_resumed_run_says_what_it_began_from(own_data, tmp_path):
    base = tiny_models.segmenter(tmp_path / "base", "swin", ["ground", "disc", "square"])
    argv = flags(own_data, base, tmp_path / "run", 1)
    segmentation.main(argv)
    start = tmp_path / "run" / "start.txt"
    assert start.read_text() == "fine-tuned"
    start.write_text("begun as a model that isn't there any more")
    segmentation.main([*argv, "--resume_from_checkpoint", "latest"])
    assert "begun as a model that isn't there any more" in (tmp_path / "run" / "export" / "README.md").read_text()


def test_faulty_masks_stop_it_before_step_0(own_data, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(own_data, data)
    Image.fromarray(np.full((40, 48), 9, np.uint8)).save(data / "train" / "masks" / "1.png")
    with pytest.raises(DataError, match="1.png"):
        segmentation.main(flags(data, "unused", tmp_path / "run", 1))
    assert not (tmp_path / "run").exists()


def test_pipelines_show_pictures_at_the_size_that_was_asked_for():
    cfg = dataclasses.replace(segmentation.PRESETS["tiny"], stock_size=(24, 48))
    served = create_model(cfg, ["background", "face"])
    pixels = served.processor(images=[Image.new("RGB", (80, 60))], return_tensors="pt")["pixel_values"]
    assert pixels.shape[-2:] == (24, 48) and served.resolution_px == cfg.resolution
    card = segmentation.card_of(served, cfg, open_masks("scenes-sample", split="train"), "new")
    assert "squeezed into 48 × 24;" in card.usage


def test_masks_are_looked_into_before_they_are_measured(tmp_path):
    base = tiny_models.segmenter(tmp_path / "base", "swin", label_names=("ground", "disc"))
    for value, says in ((7, r"measured: images/\d.png: id 7 in the mask"), (255, "no pixel has an answer")):
        folder = tmp_path / str(value)
        for n in range(3):
            for name, colour in (("images", (n, 0, 0)), ("masks", value)):
                (folder / name).mkdir(parents=True, exist_ok=True)
                Image.new("RGB" if name == "images" else "L", (16, 16), colour).save(folder / name / f"{n}.png")
        (folder / "id2label.json").write_text('{"0": "ground", "1": "disc"}')
        with pytest.raises(DataError, match=says):
            segmentation.evaluate_checkpoint(str(base), str(folder))


def test_what_has_no_answer_anywhere_is_left_out(tmp_path, monkeypatch):
    from training.segmentation import evaluation

    assert evaluation.by_source(["a", "b"], [np.zeros((2, 2)), np.eye(2)]) == {"b/pixel_accuracy": 1.0}
    served = contract.load(str(tiny_models.segmenter(tmp_path / "base", "swin", label_names=("ground", "disc"))))
    picture, mask = Image.new("RGB", (32, 32)), np.zeros((32, 32), np.int64)
    kind = {"pair": lambda self, index: (picture, mask), "facts": facts_of("scenes-sample")}
    source = [type("Pair", (list,), kind)([0]), served.temperature]
    monkeypatch.setattr(evaluation, "cut", lambda *given: (picture, np.full((32, 32), 255)))  # a part without any
    evaluation.fit_to(served, source[0])
    assert served.temperature == source[1] and served.risk_coverage["coverage"][0] == 1
