"""hub_models/segmentation against the stock classes, the stock pipeline, and models whose answer is known."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import tiny_models
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation, SegformerImageProcessor, pipeline

from hub_models import segmentation
from hub_models.publish import halves
from hub_models.store import CheckpointError

NAMES = ["background", "face", "plant"]
KINDS = ["swin", "dpt", "unet", "segformer"]
PCA = {"mean": [0.1] * 16, "basis": np.eye(16, 3).tolist(), "low": [-1, -1, -1], "high": [1, 1, 1]}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict:
    root = tmp_path_factory.mktemp("segmenters")
    made = {kind: tiny_models.segmenter(root / kind, kind, own={"temperature": 1.7, "pca": PCA}) for kind in KINDS}
    for kind in ("swin", "dpt", "unet"):
        halves.to_half(made[kind])
    return made


def picture(width: int = 32, height: int = 32, seed: int = 0) -> Image.Image:
    """Blurred noise."""
    noise = np.random.default_rng(seed).integers(0, 256, (max(1, height // 4), max(1, width // 4), 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("kind", KINDS)
def test_the_stock_class_gives_the_same_mask(folders, kind):
    ours = segmentation.load(str(folders[kind]), device="cpu")
    if kind == "unet":
        model = smp.from_pretrained(str(folders[kind])).eval()
    else:
        model = AutoModelForSemanticSegmentation.from_pretrained(folders[kind]).eval()
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    processor = AutoImageProcessor.from_pretrained(folders[kind])
    with torch.no_grad():
        out = model(processor(picture(), return_tensors="pt")["pixel_values"])
    logits = out if kind == "unet" else out.logits
    logits = F.interpolate(logits, size=(32, 32), mode="bilinear", align_corners=False)[0]
    found = ours.predict(picture())
    np.testing.assert_array_equal(found.ids, logits.argmax(0).numpy())
    calibrated = (logits / ours.temperature).softmax(0)
    np.testing.assert_allclose(found.confidence, calibrated.max(0).values.numpy(), atol=1e-5)
    np.testing.assert_allclose(found.probabilities, calibrated.numpy(), atol=1e-3)
    assert len(np.unique(found.ids)) > 1, "a mask of one class compares nothing"
    assert (ours.kind, ours.label_names, ours.resolution_px) == (kind, NAMES, 32)
    assert ours.temperature == (1.0 if kind == "segformer" else 1.7)


@pytest.mark.parametrize("kind", ["swin", "dpt", "segformer"])
def test_the_stock_pipeline_gives_the_same_mask(folders, kind):
    segment = pipeline("image-segmentation", model=str(folders[kind]), image_processor=str(folders[kind]), device="cpu")
    found, ids = segmentation.load(str(folders[kind]), device="cpu").predict(picture()).ids, np.full((32, 32), 255)
    for part in segment(picture()):
        ids[np.asarray(part["mask"]) > 0] = NAMES.index(part["label"])
    np.testing.assert_array_equal(ids, found)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(1, 1), (7, 5), (50, 20), (1, 300), (131, 97)])
def test_pictures_of_any_size_and_shape(folders, kind, size):
    found = segmentation.load(str(folders[kind]), device="cpu").predict(picture(*size))
    assert found.ids.shape == found.confidence.shape == size[::-1]
    assert found.ids.dtype == np.uint8 and found.ids.max() < 3
    assert 1 / 3 - 1e-6 <= found.confidence.min() and found.confidence.max() <= 1 + 1e-6
    np.testing.assert_allclose(found.probabilities.astype(np.float32).sum(0), 1, atol=5e-3)
    shares = found.shares()
    assert sum(share.area for share in shares) == pytest.approx(1)
    assert sum(share.area * share.confidence for share in shares) == pytest.approx(found.confidence.mean(), abs=1e-5)


def test_top_of_a_pixel_agrees_with_the_mask(folders):
    found = segmentation.load(str(folders["swin"]), device="cpu").predict(picture(140, 90))
    assert found.probabilities.shape[1:] == (41, 64), "shrunk to max_side_px"
    for x, y in [(0, 0), (139, 89), (70, 3), (8, 88)]:
        top = found.top(x, y, 2)
        assert top[0][0] == NAMES[found.ids[y, x]] and len(top) == 2
        assert top[0][1] == pytest.approx(found.confidence[y, x], abs=2e-3)
    for x, y in [(140, 0), (0, 90), (-1, 0)]:
        with pytest.raises(ValueError, match="outside"):
            found.top(x, y)


def test_indexed_png_keeps_every_id(folders, tmp_path):
    found = segmentation.load(str(folders["swin"]), device="cpu").predict(picture(40, 30))
    found.indexed_png().save(tmp_path / "mask.png")
    with Image.open(tmp_path / "mask.png") as mask:
        assert mask.mode == "P"
        np.testing.assert_array_equal(np.asarray(mask), found.ids)
        np.testing.assert_array_equal(np.asarray(mask.convert("RGB")), found.palette[found.ids])


# --- Tiles: a model that looks at single pixels has the same answer however a picture is cut --------------------------


class Pixelwise(torch.nn.Module):
    """Scores that are the channels of the pixel itself; counts its calls."""

    config = SimpleNamespace(model_type="pixelwise", num_labels=3)

    def __init__(self):
        super().__init__()
        self.head, self.calls = torch.nn.Conv2d(3, 3, 1), 0
        self.head.weight.data = 4 * torch.eye(3)[:, :, None, None]

    def forward(self, x):
        self.calls += 1
        return self.head(x)


def pixelwise(**own) -> segmentation.Segmenter:
    processor = SegformerImageProcessor(size={"height": 32, "width": 32}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    return segmentation.Segmenter(Pixelwise().eval(), processor, NAMES, name="pixelwise", own=own)


@pytest.mark.parametrize("size", [(32, 32), (100, 75), (128, 33), (33, 20)])
def test_tiles_blend_into_what_the_whole_gives(size):
    served, seen = pixelwise(), []
    image = picture(*size)
    found = served.predict(image, on_tile=lambda done, total: seen.append((done, total)))
    whole = (torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255 - 0.5) / 0.5
    with torch.no_grad():
        expected = served.model(whole[None])[0].softmax(0)  # (K, H, W)
    np.testing.assert_allclose(found.confidence, expected.max(0).values.numpy(), atol=1e-5)
    assert (found.ids == expected.argmax(0).numpy()).mean() > 0.999
    assert seen[-1][0] == seen[-1][1] and (seen[-1][1] == 1) == (max(size) == 32)


def test_at_the_models_size_nothing_is_blended():
    served = pixelwise()
    one = served.tile_probabilities([np.asarray(picture())])[0]
    blended = served._blended(np.asarray(picture()), [(0, 0)], None)
    torch.testing.assert_close(blended, one, rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(served.predict(picture()).confidence, one.max(0).values.numpy())


def test_tiles_cover_every_length_and_share_a_quarter():
    for length in range(32, 300):
        begun = segmentation.starts(length, 32)
        assert begun[0] == 0 and begun[-1] == length - 32
        assert all(b - a <= 24.5 for a, b in zip(begun, begun[1:], strict=False)), (length, begun)
    assert segmentation.starts(32, 32) == [0]
    assert (segmentation.tile_window(32) > 0).all()


def test_what_on_tile_raises_ends_the_work():
    served = pixelwise()
    with pytest.raises(KeyboardInterrupt):
        served.predict(picture(128, 128), on_tile=lambda done, total: (_ for _ in ()).throw(KeyboardInterrupt))
    assert served.model.calls == 1


def test_a_huge_picture_is_seen_at_a_bounded_scale(monkeypatch):
    served = pixelwise()
    assert served.seen_side(Image.new("RGB", (4000, 3000))) == 128  # four times the side
    assert served.seen_side(Image.new("RGB", (9, 5))) == 32
    monkeypatch.setattr(segmentation, "MAX_NUMBERS", 3 * 50**2)
    assert served.seen_side(Image.new("RGB", (4000, 3000))) == 50
    found = served.predict(picture(400, 300))
    assert found.ids.shape == (300, 400) and found.probabilities.shape == (3, 38, 50)


@pytest.mark.parametrize("size", [(20, 30), (57, 41), (8, 8), (200, 3)])
def test_rows_are_those_of_the_whole_resized(size):
    planes = torch.rand(3, 20, 30)
    whole = F.interpolate(planes[None], size=size, mode="bilinear", align_corners=False)[0]
    parts = [segmentation.resized_rows(planes, at, min(at + 7, size[0]), size) for at in range(0, size[0], 7)]
    torch.testing.assert_close(torch.cat(parts, 1), whole)


def test_transparency_lies_on_white():
    clear = Image.new("RGBA", (32, 32), (255, 0, 0, 0))
    white = Image.new("RGB", (32, 32), "white")
    served = pixelwise()
    np.testing.assert_array_equal(served.predict(clear).confidence, served.predict(white).confidence)


# --- Features ---------------------------------------------------------------------------------------------------------


def test_features_are_the_class_layers_input_and_colours_come_from_the_basis(folders):
    ours = segmentation.load(str(folders["swin"]), device="cpu")
    seen = ours.features(picture())
    with segmentation.class_layer_input(ours.model) as caught, torch.no_grad():
        ours.model(ours.pixel_values([np.asarray(picture())]))
    np.testing.assert_allclose(seen.values, caught[0][0].permute(1, 2, 0).numpy(), atol=1e-6)  # (8, 8, 16): stride 4
    scaled = (seen.values[..., :3] - 0.1 + 1) / 2  # the basis is the first three numbers
    np.testing.assert_array_equal(seen.colours, np.rint(scaled.clip(0, 1) * 255).astype(np.uint8))
    assert ours.features(picture(64, 16)).values.shape == (2, 8, 16), "only the picture, not what pads it"
    assert segmentation.load(str(folders["segformer"]), device="cpu").features(picture(50, 20)).colours is None


# --- Folders that are wrong -------------------------------------------------------------------------------------------


def spoilt(folders, tmp_path, kind="swin", **keys):
    import shutil

    folder = tmp_path / "spoilt"
    shutil.copytree(folders[kind], folder)
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))
    return folder


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"label_names": ["one"]}, "label_names must be 3"),
        ({"palette": [[0, 0, 0]]}, "palette must be 3"),
        ({"palette": "red"}, "palette must be 3"),
        ({"temperature": 0}, "temperature must be a positive"),
        ({"temperature": "hot"}, "temperature must be a positive"),
        ({"resolution_px": True}, "resolution_px is True, not a side from 1"),
        ({"pca": {"mean": []}}, "pca must have"),
        ({"risk_coverage": [1]}, "risk_coverage must have"),
    ],
)
def test_wrong_keys_are_named(folders, tmp_path, keys, said):
    with pytest.raises(CheckpointError, match=said):
        segmentation.load(str(spoilt(folders, tmp_path, **keys)), device="cpu")


def test_folders_of_something_else_are_refused(folders, tmp_path):
    folder = spoilt(folders, tmp_path)
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(CheckpointError, match="no preprocessor_config.json"):
        segmentation.load(str(folder))
    folder = spoilt(folders, tmp_path / "b")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(CheckpointError, match="no semantic segmenter"):
        segmentation.load(str(folder))
    (folder / "config.json").write_text(json.dumps(config))
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("decode_head.classifier.weight")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match="weights lack decode_head.classifier.weight"):
        segmentation.load(str(folder))


def test_smp_folders_name_their_class_and_download_nothing(folders, tmp_path):
    folder = spoilt(folders, tmp_path, "unet")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"encoder_weights": "imagenet"}))
    assert segmentation.load(str(folder), device="cpu").kind == "unet"  # offline: a download would fail
    (folder / "config.json").write_text(json.dumps(config | {"_model_class": "datasets"}))
    with pytest.raises(CheckpointError, match="smp has .*Unet"):
        segmentation.load(str(folder))
    assert not (folders["unet"] / "README.md").exists(), "smp's card states a licence that isn't ours"
