"""The classifier's contract, its page, and the gallery around it: on tiny models, over HTTP and in chromium."""

import io
import json
import pickle
import random
import re
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
import timm
import tiny_models
import torch
from hostile_pictures import (
    HOSTILE_NAMES,
    SERVER_FILES,
    call,
    check_hostile_name,
    check_only_uploads_are_read,
    check_unreadable,
    check_upload_above_the_limit,
    picture,
    text_of,
    upload,
)
from opening import open_empty
from PIL import Image
from safetensors.torch import load_file, save_file
from test_ui import REFUSED, noise
from timm.models import save_for_hf

from apps import classifier as app
from apps import ddpm as ddpm_app
from apps import gallery
from apps.classifier import desk
from apps.classifier import page as the_page
from apps.kit import pictures, values
from hub_models import classifier, ddpm
from hub_models.publish import halves, packing
from hub_models.store import CheckpointError
from training import classifier as training_classifier
from training.data.sources import open_source

LABELS = ["face", "animal", "plant", "food", "vehicle", "flag", "symbol"]
TINY = {
    "vit": ("vit_tiny_patch16_224", dict(img_size=32, patch_size=8, embed_dim=32, depth=3, num_heads=2)),
    "swin": (
        "swin_tiny_patch4_window7_224",
        dict(img_size=32, window_size=4, embed_dim=16, depths=(2, 2), num_heads=(2, 4)),
    ),
}
FOX = str(next(app.PAGE.folder.glob("*fox*.png")))


def save_tiny(folder: Path, kind: str, **changes) -> Path:
    """A folder as training writes it, fp16 and with a manifest, around a tiny random model with opinions."""
    name, arguments = TINY[kind]
    arguments = {**arguments, **changes}
    torch.manual_seed(5)
    model = timm.create_model(name, num_classes=len(LABELS), **arguments)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "head" in key and parameter.ndim == 2:
                parameter.mul_(60)  # a fresh head is nearly indifferent
            elif "qkv.weight" in key:
                parameter.mul_(12)  # and fresh attention nearly uniform
    save_for_hf(model, folder, model_config={"label_names": LABELS}, model_args=arguments, safe_serialization=True)
    halves.to_half(folder)
    packing.write_manifest(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    return {kind: save_tiny(tmp_path_factory.mktemp(kind), kind) for kind in TINY}


@pytest.fixture(scope="module")
def models(folders) -> dict[str, classifier.Classifier]:
    loaded = {kind: classifier.load(str(folder), device="cpu") for kind, folder in folders.items()}
    for kind, model in loaded.items():
        model.name = kind
    return loaded


# ---- the contract ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TINY)
def test_it_is_what_stock_timm_loads_with_no_arguments_to_the_bit(kind, folders, models):
    stock = timm.create_model(f"local-dir:{folders[kind]}", pretrained=True).eval()
    model = models[kind]
    images = [noise((50, 40)), Image.open(FOX)]
    with torch.inference_mode():
        assert torch.equal(stock(model.preprocess(images)), model.logits(images))
    assert model.label_names == LABELS and model.resolution_px == 32 and not model.model.training
    assert model.parameters == sum(p.numel() for p in stock.parameters())


def test_predictions_are_the_largest_softmax_values(models):
    images = [noise(), Image.open(FOX)]
    for model in models.values():
        for row, top in zip(model.logits(images).softmax(-1).numpy(), model.predict(images, 3), strict=True):
            order = np.argsort(-row)[:3]
            assert [label for label, _ in top] == [LABELS[i] for i in order]
            assert np.allclose([p for _, p in top], row[order])
        assert len(model.predict(images, 99)[0]) == len(LABELS)


def test_features_are_what_the_head_is_given(models):
    model = models["vit"]
    images = [noise(), Image.open(FOX)]
    assert torch.allclose(model.model.head(model.features(images)), model.logits(images), atol=1e-5)


def test_preprocess_composites_on_white_keeps_the_aspect_and_normalises(models):
    for model in models.values():
        config = model.model.pretrained_cfg
        mean, std = (np.array(config[key])[:, None, None] for key in ("mean", "std"))
        wide = Image.new("RGBA", (64, 32), (255, 0, 0, 128))
        x = model.preprocess([wide])[0].numpy() * std + mean  # (3, 32, 32) in [0, 1]
        assert np.allclose(x[:, :8], 1, atol=1e-6) and np.allclose(x[:, 24:], 1, atol=1e-6)  # white above and below
        assert np.allclose(x[:, 8:24], np.array([1, 127 / 255, 127 / 255])[:, None, None], atol=2 / 255)
        hidden = Image.new("RGBA", (32, 32), (0, 0, 0, 0))  # black under full transparency must not show
        assert np.allclose(model.preprocess([hidden])[0].numpy() * std + mean, 1, atol=1e-6)
        plain = noise((32, 32))
        exact = (np.asarray(plain).transpose(2, 0, 1) / 255 - mean) / std
        assert np.allclose(model.preprocess([plain])[0].numpy(), exact, atol=1e-5)
        assert model.preprocess([Image.new("RGB", (1, 50)), Image.new("P", (9, 9))]).shape == (2, 3, 32, 32)


def test_rollout_is_the_product_of_the_layers_attention(models):
    model = models["vit"]
    probabilities = []
    handles = []
    for block in model.model.blocks:  # the reference reads them off timm's own unfused path
        block.attn.fused_attn = False
        handles.append(block.attn.attn_drop.register_forward_hook(lambda _, args, __: probabilities.append(args[0])))
    model.logits([Image.open(FOX)])
    for block, handle in zip(model.model.blocks, handles, strict=True):
        block.attn.fused_attn = True
        handle.remove()
    product = np.eye(17)
    for layer in probabilities:
        mixed = 0.5 * layer[0].numpy().astype(np.float64).mean(0) + 0.5 * np.eye(17)
        product = (mixed / mixed.sum(-1, keepdims=True)) @ product
    expected = product[0, 1:].reshape(4, 4)
    expected = (expected - expected.min()) / (expected.max() - expected.min())
    rollout = model.attention_rollout(Image.open(FOX))
    assert rollout.dtype == np.float32 and np.allclose(rollout, expected, atol=1e-4)
    assert expected.std() > 0.05  # not a flat map
    assert model.has_attention and not models["swin"].has_attention
    with pytest.raises(ValueError, match="plain ViT"):
        models["swin"].attention_rollout(noise())


def test_rollout_of_a_vit_that_pools_its_patches(tmp_path):
    model = classifier.load(str(save_tiny(tmp_path, "vit", global_pool="avg", class_token=False)), device="cpu")
    assert model.has_attention and model.attention_rollout(noise()).shape == (4, 4)


@pytest.mark.parametrize("kind", TINY)
def test_occlusion_is_the_drop_at_each_place(kind, models):
    model, image = models[kind], Image.open(FOX)
    [[(label, _)]] = model.predict([image], 1)
    x, index = model.preprocess([image]), LABELS.index(label)
    with torch.inference_mode():
        whole = model.model(x).softmax(-1)[0, index]
        expected = np.zeros((5, 5))
        for i in range(5):
            for j in range(5):
                covered = x.clone()
                covered[0, :, 6 * i : 6 * i + 8, 6 * j : 6 * j + 8] = 0
                expected[i, j] = whole - model.model(covered).softmax(-1)[0, index]
    drop = model.occlusion(image, label, patch_px=8, stride_px=6, batch_size=4)
    assert np.allclose(drop, expected, atol=1e-5) and np.abs(expected).max() > 1e-3
    with pytest.raises(ValueError, match="not a label"):
        model.occlusion_steps(image, "unicorn")
    with pytest.raises(ValueError, match="patch_px must be from 1 to 32"):
        model.occlusion_steps(image, label, patch_px=33)


def test_closing_the_occlusion_stops_the_model(models):
    model, calls = models["swin"], []
    handle = model.model.register_forward_hook(lambda *_: calls.append(1))
    steps = model.occlusion_steps(noise(), "food", patch_px=4, stride_px=2, batch_size=10)
    first = next(steps)
    steps.close()
    handle.remove()
    assert (first.done, first.total, len(calls)) == (10, 225, 2)  # the whole picture, and one batch


def test_spread_is_the_mean_over_the_patches_on_a_pixel():
    drop = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)
    expected = np.array([[1, 1.5, 1.5, 2], [2, 2.5, 2.5, 3], [2, 2.5, 2.5, 3], [3, 3.5, 3.5, 4]])
    assert np.allclose(classifier.spread(drop, size_px=4, patch_px=3, stride_px=1)[[0, 1, 2, 3]], expected)


# ---- checkpoints that cannot be used ---------------------------------------------------------------------------------


class Bomb:
    """Unpickling this writes a file."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return Path.touch, (Path(self.marker),)


def damage(kind: str, source: Path, folder: Path, marker: Path) -> None:
    folder.mkdir()
    weights = load_file(source / "model.safetensors")
    (folder / "config.json").write_text((source / "config.json").read_text())
    pickled = pickle.dumps(Bomb(marker))
    if kind == "pickled":
        (folder / "pytorch_model.bin").write_bytes(pickled)
    elif kind == "pickled beside":  # timm prefers pytorch_model.bin to a safetensors of another name
        (folder / "pytorch_model.bin").write_bytes(pickled)
        save_file(weights, folder / "other.safetensors")
    elif kind == "pickle renamed":
        (folder / "model.safetensors").write_bytes(pickled)
    elif kind == "truncated":
        (folder / "model.safetensors").write_bytes((source / "model.safetensors").read_bytes()[:-1000])
    elif kind == "nan":
        weights["head.weight" if "head.weight" in weights else "head.fc.weight"][0, 0] = float("nan")
        save_file(weights, folder / "model.safetensors")
    elif kind == "lfs pointer":
        pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n"
        (folder / "model.safetensors").write_text(pointer)
    elif kind == "html page":
        (folder / "model.safetensors").write_text("<!DOCTYPE html><html>404</html>")
    elif kind == "foreign weights":
        save_file({"unet.conv_in.weight": torch.zeros(4, 4)}, folder / "model.safetensors")
    elif kind == "foreign config":
        save_file(weights, folder / "model.safetensors")
        (folder / "config.json").write_text('{"_class_name": "UNet2DModel"}')
    elif kind == "wrong labels":
        save_file(weights, folder / "model.safetensors")
        config = json.loads((source / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "label_names": ["only one"]}))
    elif kind == "missing":
        folder.joinpath("config.json").unlink()


DAMAGES = {
    "pickled": "pickle",
    "pickled beside": "model.safetensors",
    "pickle renamed": "pickle",
    "truncated": "truncated|not whole|cut|incomplete|safetensors",
    "nan": "NaN",
    "lfs pointer": "git-lfs",
    "html page": "HTML",
    "foreign weights": "timm cannot open",
    "foreign config": "architecture",
    "wrong labels": "label_names",
    "missing": "safetensors",
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_broken_checkpoint_gives_a_page_that_names_the_cause(kind, folders, models, tmp_path):
    folder, marker = tmp_path / "model", tmp_path / "unpickled"
    damage(kind, folders["vit"], folder, marker)
    [error] = app.load_models([str(folder)]).values()
    assert isinstance(error, CheckpointError)
    assert re.search(DAMAGES[kind], str(error)) and str(folder) in str(error)
    assert not marker.exists(), "the pickle was opened"
    for page in (app.build({"vit": error}), app.build({"vit": error, "swin": models["swin"]})):
        shown = "".join(str(block.value) for block in page.blocks.values() if hasattr(block, "value"))
        assert "vit could not be loaded" in shown and "role=&quot;alert" not in shown and 'role="alert"' in shown


def test_an_unknown_name_is_told_from_a_hub_id_without_asking_the_hub():
    [error] = app.load_models(["no-such-variant"]).values()
    assert isinstance(error, CheckpointError) and "no-such-variant" in str(error)


# ---- the HTTP API ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def address(models, serve_once) -> str:
    return serve_once(app.build(models))


def test_both_models_answer_over_http_as_in_python(address, models):
    [path] = upload(address, "fox.png", Path(FOX).read_bytes()).json()
    event, (vit, vit_facts, swin, _) = call(address, "classifier_predict", picture(path))
    assert event == "complete" and " ms" in vit_facts and f"{models['vit'].weights_sha256[:12]}" in vit_facts
    for answer, model in ((vit, models["vit"]), (swin, models["swin"])):
        [expected] = model.predict([pictures.read_picture(FOX)])
        assert [c["label"] for c in answer["confidences"]] == [label for label, _ in expected]
        assert np.allclose([c["confidence"] for c in answer["confidences"]], [p for _, p in expected], atol=1e-5)


@pytest.mark.parametrize("kind", REFUSED)
def test_unreadable_pictures_are_refused_with_the_reason_over_http(kind, address):
    check_unreadable(address, kind, {"classifier_predict": []})


def test_the_same_reasons_come_from_the_maps(address):
    [path] = upload(address, "page.png", b"<html>").json()
    for endpoint, rest in (("classifier_rollout", ["vit"]), ("classifier_occlusion", ["vit", "food"])):
        event, answer = call(address, endpoint, picture(path), *rest)
        assert event == "error" and "not a readable image" in text_of(answer)


def test_no_picture_other_peoples_files_and_addresses_are_refused(address):
    check_only_uploads_are_read(address, {"classifier_predict": []})


def test_the_original_file_name_decides_nothing(address):
    image = Image.new("CMYK", (20, 20), (0, 255, 255, 0))
    image.save(buffer := io.BytesIO(), "JPEG")
    [path] = upload(address, "x.jpg", buffer.getvalue()).json()
    replies = [
        call(address, "classifier_predict", picture(path, name)) for name in ("x.jpg", "x.gif", "x.svg", "", "x")
    ]
    assert {event for event, _ in replies} == {"complete"}
    assert len({json.dumps(values[0]) for _, values in replies}) == 1


@pytest.mark.parametrize("path", SERVER_FILES)
def test_files_of_the_server_are_not_served(path, address):
    assert httpx.get(f"{address}/gradio_api/file={path}").status_code in (403, 404)


def test_a_picture_inside_the_request_is_refused(address):
    inline = {"path": None, "url": "data:image/png;base64,AAAA", "meta": {"_type": "gradio.FileData"}}
    assert call(address, "classifier_predict", inline)[0] == "error"


def test_an_upload_above_the_limit_is_413(address):
    check_upload_above_the_limit(address)


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_hostile_file_names_are_harmless(name, address):
    check_hostile_name(address, name, "classifier_predict")


@pytest.mark.parametrize("model", ["unicorn", None, 3, float("nan"), ["vit"], {"a": 1}, True])
def test_unknown_models_are_refused(model, address):
    [path] = upload(address, "fox.png", Path(FOX).read_bytes()).json()
    for endpoint, rest in (("classifier_rollout", []), ("classifier_occlusion", ["food"])):
        assert call(address, endpoint, picture(path), model, *rest)[0] == "error"


@pytest.mark.parametrize("label", ["unicorn", None, 3, float("inf"), ["food"], {"a": 1}])
def test_unknown_labels_are_refused(label, address):
    [path] = upload(address, "fox.png", Path(FOX).read_bytes()).json()
    assert call(address, "classifier_occlusion", picture(path), "vit", label)[0] == "error"


def test_the_refusal_names_the_choices(address):
    [path] = upload(address, "fox.png", Path(FOX).read_bytes()).json()
    _, answer = call(address, "classifier_occlusion", picture(path), None, "food")
    assert "vit, swin" in text_of(answer)


MAPS = {"rollout": ["vit"], "occlusion": ["vit", "swin"], "saliency": ["vit", "swin"], "grad-cam": ["vit", "swin"]}


@pytest.mark.parametrize(("method", "model"), [(method, name) for method in MAPS for name in MAPS[method]])
def test_a_program_is_told_what_a_label_is_decided_by(method, model, address):
    [path] = upload(address, "fox.png", Path(FOX).read_bytes()).json()
    pictures_of = {}
    for label in ("top answer", "flag"):
        event, (file, said) = call(address, "classifier_explain", picture(path), label, method, model)
        assert event == "complete" and model in said
        assert label == "top answer" or method == "rollout" or "“flag”" in said
        seen = Image.open(io.BytesIO(httpx.get(file["url"]).content))
        assert seen.size == (448, 448) and np.asarray(seen).std() > 5
        pictures_of[label] = seen.tobytes()
    assert (len(set(pictures_of.values())) == 1) == (method == "rollout")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("unicorn", "grad-cam", "vit"), "Label must be one of: top answer, face"),
        ((None, "saliency", "vit"), "Label must be one of"),
        (("food", "rollout", "swin"), "swin has no attention rollout: it needs a plain ViT"),
        (("food", "lime", "vit"), "Method must be one of: rollout, grad-cam, saliency, occlusion"),
        (("food", ["saliency"], "vit"), "Method must be one of"),
        (("food", "saliency", "unicorn"), "Model must be one of: vit, swin"),
    ],
)
def test_what_a_model_does_not_have_is_refused_in_a_sentence(asked, said, address):
    [path] = upload(address, "fox.png", Path(FOX).read_bytes()).json()
    event, answer = call(address, "classifier_explain", picture(path), *asked)
    assert event == "error" and said in text_of(answer)
    event, answer = call(address, "classifier_explain", None, "food", "saliency", "vit")
    assert event == "error" and "Upload a picture first" in text_of(answer)


def test_a_network_of_convolutions_says_what_it_lacks(models):
    stock = timm.create_model("resnet10t", num_classes=len(LABELS)).eval().requires_grad_(False)
    page_of = desk.Desk(models | {"net": classifier.Classifier(stock, LABELS, name="net", weights_sha256="0" * 64)})
    net = page_of.models["net"]
    fields = desk.own_fields(net, "food", "rollout")
    assert fields["label"]["value"] == "food" and fields["method"]["value"] == "grad-cam"
    assert not fields["block"]["visible"] and fields["layer"]["visible"]
    with pytest.raises(values.InputError, match="net .ResNet. has neither Swin's windows nor a plain ViT's patches"):
        page_of.reach(FOX, "net", 0, 50, 50)
    four, said = page_of.alike(FOX, "net", len(net.layers), 50, 50, None)
    assert "6 × 6 cells, as it has no tokens, of 512 numbers" in said and four[2:] == [None, None]
    assert page_of.at_once(FOX, "net", "food", "grad-cam")[0].size == (448, 448)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("reach", "swin", 99, 50, 50), "Block must be a whole number from 0 to 4"),
        (("reach", "swin", None, 50, 50), "Block must be"),
        (("reach", "swin", 1, 101, 50), "Row, in percent, must be"),
        (("reach", "swin", 1, 50, "left"), "Column, in percent, must be"),
        (("alike", "swin", 3, 50, 50, None), "Layer must be a whole number from 1 to 2"),
        (("alike", "vit", 1, 50, None, None), "Column, in percent, must be"),
    ],
)
def test_places_outside_of_a_model_are_refused_in_a_sentence(asked, said, models):
    method, *rest = asked
    with pytest.raises(values.InputError, match=said):
        getattr(desk.Desk(models), method)(FOX, *rest)


def test_missing_arguments_and_malformed_bodies_leave_the_server_alive(address):
    assert call(address, "classifier_occlusion")[0] == "error"
    url = f"{address}/gradio_api/call/classifier_predict"
    assert httpx.post(url, content=b"{no json").status_code in (400, 422)
    assert httpx.post(url, content=b"[]").status_code in (400, 422)
    assert "Upload a picture first" in text_of(call(address, "classifier_predict", None)[1])


def test_endpoints_start_with_the_stem(address):
    assert set(httpx.get(f"{address}/gradio_api/info").json()["named_endpoints"]) == {
        "/classifier_predict",
        "/classifier_rollout",
        "/classifier_occlusion",
        "/classifier_explain",
    }


def test_monitoring_and_other_origins_get_nothing(address):
    assert httpx.get(f"{address}/monitoring").status_code in (403, 404)
    reply = httpx.post(f"{address}/gradio_api/upload", headers={"Origin": "https://example.org"}, files={"files": b"x"})
    assert "access-control-allow-origin" not in reply.headers


# ---- in the browser --------------------------------------------------------------------------------------------------


def test_a_person_reads_both_answers_and_draws_the_maps(page, address, models):
    open_empty(page, address, "classifier")
    page.set_input_files("#classifier-picture input[type=file]", FOX)
    for answer, model in zip((0, 1), models.values(), strict=True):
        [top] = model.predict([pictures.read_picture(FOX)])
        shown = page.locator(".v-answer").nth(answer)
        shown.get_by_role("heading", name=top[0][0]).or_(shown.locator("h2", has_text=top[0][0])).first.wait_for()
        for label, probability in top:  # waited for: an answer to the picture that the page opened with may still come
            shown.filter(has_text=re.compile(rf"{label}\s*{round(probability * 100)}%")).wait_for()
    page.get_by_text("the redder").wait_for()
    page.get_by_alt_text("Map of where it looked").wait_for()

    page.get_by_label("swin").check()
    page.get_by_label("Label", exact=True).click()
    page.get_by_role("option", name="flag").click()
    page.get_by_role("button", name="Draw the map").click()
    page.get_by_text(re.compile(r"swin says “flag” at \d+%\. Covering")).wait_for()
    page.get_by_alt_text("Occlusion map").wait_for()

    page.get_by_role("button", name="Remove Image").click()
    page.get_by_text("no picture yet").nth(1).wait_for()
    assert page.get_by_alt_text("Occlusion map").count() == 0


def source(page, name: str) -> str:
    """The address of a picture on the page, which names its content."""
    return page.locator(name).locator("img").get_attribute("src")


def changed(page, name: str, before: str) -> str:
    page.wait_for_function("([name, old]) => document.querySelector(`${name} img`)?.src !== old", arg=[name, before])
    return source(page, name)


def tab(page, name: str) -> None:
    page.get_by_role("tab", name=name).locator("visible=true").click()


def test_a_person_chooses_a_map_and_a_label(page, address):
    open_empty(page, address, "classifier")
    page.set_input_files("#classifier-picture input[type=file]", FOX)
    page.get_by_text("flows into the answer").wait_for()
    seen = [source(page, "#classifier-map")]
    for method, said in (
        ("Grad-CAM", "of 4 × 4 places, the redder ones"),
        ("Gradient saliency", "a little change of the"),
    ):
        page.get_by_label(method).check()
        page.get_by_text(said).wait_for()
        seen.append(changed(page, "#classifier-map", seen[-1]))
    page.get_by_label("Label", exact=True).click()
    page.get_by_role("option", name="flag").click()
    page.get_by_text("vit, “flag” at").wait_for()
    seen.append(changed(page, "#classifier-map", seen[-1]))
    page.get_by_label("swin").check()
    page.get_by_text("swin, “flag” at").wait_for()
    seen.append(changed(page, "#classifier-map", seen[-1]))
    assert len(set(seen)) == len(seen) == 5
    assert page.get_by_label("Gradient saliency").is_checked() and page.get_by_label("Attention rollout").count() == 0


def test_a_person_walks_through_the_blocks(page, address):
    open_empty(page, address, "classifier")
    page.set_input_files("#classifier-picture input[type=file]", FOX)
    page.get_by_text("flows into the answer").wait_for()
    tab(page, "One patch")
    page.get_by_text("Every patch sees all after one block.").wait_for()
    before = source(page, "#classifier-reach")
    page.get_by_label("swin").check()
    page.get_by_text("shifted by 2; what lies at opposite edges").wait_for()
    before = changed(page, "#classifier-reach", before)
    for chip, said in (
        ("Patches", "8 × 8 patches. The patch in row 5, column 5 knows itself alone."),
        (
            "1.1",
            "8 × 8 tokens look around in windows of 4 × 4. The patch in row 5, column 5 has seen 16 of 64 patches.",
        ),
        ("1.2 shifted", "stays apart. The patch in row 5, column 5 has seen the whole picture."),
        ("2.1", "4 × 4 tokens look around in one window, which is the whole picture."),
    ):
        page.locator("#classifier-block").get_by_label(chip, exact=True).check()
        page.get_by_text(said).wait_for()
        before = changed(page, "#classifier-reach", before)
    page.locator("#classifier-block").get_by_label("1.1", exact=True).check()
    before = changed(page, "#classifier-reach", before)
    image = page.locator("#classifier-reach img")
    box = image.bounding_box()  # square in it, whatever its shape
    image.click(position={"x": box["width"] / 2 + 0.4 * box["height"], "y": 0.1 * box["height"]})
    page.get_by_text("row 1, column 8 has seen 16 of 64 patches").wait_for()
    before = changed(page, "#classifier-reach", before)
    page.get_by_label("number input for Row, %").locator("visible=true").fill("100")
    page.get_by_text("row 8, column 8 has seen").wait_for()
    changed(page, "#classifier-reach", before)


def test_a_person_compares_patches_in_two_pictures(page, address, tmp_path):
    open_empty(page, address, "classifier")
    page.set_input_files("#classifier-picture input[type=file]", FOX)
    page.get_by_text("flows into the answer").wait_for()
    tab(page, "Alike")
    page.get_by_text("vit, layer 3 of 3: 4 × 4 tokens of 32 numbers").wait_for()
    alike, other = "#classifier-likeness-0", "#classifier-likeness-1"
    before = source(page, alike)
    image = page.locator(f"{alike} img")
    box = image.bounding_box()
    image.click(position={"x": box["width"] / 2, "y": 0.45 * box["height"]})
    page.get_by_text("like the one in row 2, column 3").wait_for()
    before = changed(page, alike, before)
    assert page.locator(f"{other} img").count() == 0
    page.get_by_label("Or an example").click()
    page.get_by_role("option", name="octopus").click()
    page.locator(f"{other} img").wait_for()
    second, colours = source(page, other), source(page, "#classifier-colours-1")
    page.locator("#classifier-colours-0 img").click(position={"x": 8, "y": box["height"] / 2})
    page.get_by_text("like the one in row 3, column 1").wait_for()
    before, second = changed(page, alike, before), changed(page, other, second)
    assert source(page, "#classifier-colours-1") == colours, "one basis, wherever one looks"
    page.get_by_label("swin").check()
    page.get_by_text("swin, layer 1 of 2: 8 × 8 tokens of 16 numbers").wait_for()
    before = changed(page, alike, before)
    changed(page, other, second)
    (tmp_path / "page.png").write_bytes(b"<html>404</html>")
    page.locator("#classifier-second").get_by_role("button", name="Remove Image").click()
    page.locator(f"{other} img").wait_for(state="hidden")
    page.set_input_files("#classifier-second input[type=file]", tmp_path / "page.png")
    page.get_by_text("page.png is not a readable image").wait_for()
    page.locator("#classifier-second img").wait_for(state="hidden")
    assert source(page, alike) == before, "the first picture's maps stay"


def test_stop_acts_within_a_step(page, models, serve, monkeypatch):
    monkeypatch.setattr(desk, "BATCH", 1)  # 225 steps
    url = serve(app.build(models))
    open_empty(page, url, "classifier")
    page.set_input_files("#classifier-picture input[type=file]", FOX)
    page.get_by_text("the redder").wait_for()
    calls = []

    def slow_step(*_):  # 225 of them take longer than any browser needs to press Stop
        calls.append(time.monotonic())
        time.sleep(0.1)

    handle = models["vit"].model.register_forward_hook(slow_step)
    page.get_by_role("button", name="Draw the map").click()
    page.get_by_text(re.compile(r"\d+ of 225 places")).wait_for()
    page.get_by_role("button", name="Stop").click()
    page.get_by_text(re.compile(r"Stopped after \d+ of 225 places")).wait_for()
    stopped = time.monotonic()
    time.sleep(1.5)
    handle.remove()
    assert 0 < len(calls) < 200 and len([at for at in calls if at > stopped]) <= 1
    page.wait_for_selector("button:not([disabled]) >> text=Draw the map")


def test_closing_the_page_stops_the_map(browser, models, serve, monkeypatch):
    monkeypatch.setattr(desk, "BATCH", 1)
    calls = []
    page = browser.new_page()
    open_empty(page, serve(app.build(models)), "classifier")
    page.set_input_files("#classifier-picture input[type=file]", FOX)
    page.get_by_text("the redder").wait_for()

    def slow_step(*_):
        calls.append(1)
        time.sleep(0.1)

    handle = models["vit"].model.register_forward_hook(slow_step)
    page.get_by_role("button", name="Draw the map").click()
    page.get_by_text(re.compile(r"\d+ of 225 places")).wait_for()
    page.close()
    before = None
    while before != len(calls):  # at most the few steps until the server notices
        before = len(calls)
        time.sleep(1)
    handle.remove()
    assert 0 < before < 225


def test_by_keyboard_an_example_is_answered(page, address):
    open_empty(page, address, "classifier")
    example = page.get_by_role("button", name="fox, fluent")
    example.wait_for()
    example.focus()
    page.keyboard.press("Enter")
    page.locator("dd", has_text=" ms").nth(1).wait_for()


def test_a_bad_picture_says_why_and_leaves_no_old_answer(page, address, tmp_path):
    (tmp_path / "page.png").write_bytes(b"<html>404</html>")
    open_empty(page, address, "classifier")
    page.set_input_files("#classifier-picture input[type=file]", FOX)
    page.locator("dd", has_text=" ms").nth(1).wait_for()
    page.locator("#classifier-picture").get_by_role("button", name="Remove Image").click()
    page.get_by_text("no picture yet").nth(1).wait_for()
    page.set_input_files("#classifier-picture input[type=file]", tmp_path / "page.png")
    page.get_by_text("page.png is not a readable image").wait_for()
    page.get_by_text("no picture yet").nth(1).wait_for()


def test_of_two_pictures_the_microscope_complains_about_the_second_alone(tmp_path):
    """That the first can't be read is said by the answer to it, once."""
    bad = tmp_path / "page.png"
    bad.write_bytes(b"<html>404</html>")

    def both(*paths):
        return [pictures.read_picture(str(path)) for path in paths], "seen"

    assert the_page.in_words(both, str(bad), str(FOX)) == (None, the_page.status(the_page.WAITING))
    with pytest.raises(pictures.PictureError, match="page.png is not a readable image"):
        the_page.in_words(both, str(FOX), str(bad))
    assert the_page.in_words(both, str(FOX))[1] == the_page.status("seen")


def test_a_degraded_page_names_the_cause_and_the_other_model_works(page, models, serve):
    url = serve(
        app.build({"vit": CheckpointError("x/model.safetensors is a <b>git-lfs</b> pointer"), "swin": models["swin"]})
    )
    open_empty(page, url, "classifier")
    page.get_by_role("alert").get_by_text("x/model.safetensors is a <b>git-lfs</b> pointer").wait_for()
    page.set_input_files("#classifier-picture input[type=file]", FOX)
    page.locator("dd", has_text=" ms").wait_for()
    page.get_by_text("places, the redder ones speak").wait_for()
    assert page.get_by_label("Attention rollout").count() == 0 and page.get_by_label("Grad-CAM").is_checked()


@pytest.fixture(scope="module")
def tiny_ddpm(tmp_path_factory):
    return ddpm.load(str(tiny_models.ddpm_folder(tmp_path_factory.mktemp("ddpm"), LABELS)), device="cpu")


ABSENT = {
    demo.PAGE.stem: {name: CheckpointError(f"{name} is missing: train it") for name in demo.PAGE.models or ["gone"]}
    for demo in gallery.DEMOS
}


def test_the_gallery_leads_to_every_demo(page, models, tiny_ddpm, serve):
    url = serve(gallery.build(ABSENT | {"ddpm": {"tiny": tiny_ddpm}, "classifier": models}))
    alone = {
        **app.build(models).get_api_info()["named_endpoints"],
        **ddpm_app.build({"tiny": tiny_ddpm}).get_api_info()["named_endpoints"],
    }
    together = httpx.get(f"{url}/gradio_api/info").json()["named_endpoints"]
    assert set(together) == set(alone) and all(re.match(r"/(ddpm|classifier)_", name) for name in together)

    page.goto(url)
    for demo in gallery.DEMOS:
        link = page.get_by_role("navigation", name="Demos").get_by_role("link", name=demo.PAGE.title)
        link.wait_for()
        link.click()
        page.wait_for_url(f"{url}/{demo.PAGE.stem}")
        page.locator("h1").wait_for()
        page.get_by_role("link", name="Vitrail").click()
        page.get_by_role("navigation", name="Demos").wait_for()
    page.goto(f"{url}/classifier")
    page.get_by_role("button", name="fox, fluent").click()
    page.locator("dd", has_text=" ms").nth(1).wait_for()


def test_the_gallery_fits_a_phone_in_the_dark_and_its_side_panels_stay_offline(page, models, serve):
    url = serve(gallery.build(ABSENT | {"classifier": models}))
    page.set_viewport_size({"width": 390, "height": 844})
    page.emulate_media(color_scheme="dark")
    for path in ("", *(f"/{demo.PAGE.stem}" for demo in gallery.DEMOS)):
        page.goto(url + path)
        page.locator("h1").wait_for()
        page.wait_for_timeout(300)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, path
        if path and path != "/classifier":
            page.get_by_role("alert").get_by_text("is missing: train it").first.wait_for()
    page.set_viewport_size({"width": 1280, "height": 900})
    page.goto(url + "/classifier")
    for button in ("Settings", "Use via API"):
        page.get_by_role("button", name=re.compile(button)).click()
        page.wait_for_timeout(700)  # whatever the panel asks for, it asks now
        page.goto(url + "/classifier")


def test_gallery_models_are_chosen_by_stem(folders):
    assert gallery.load_models([f"classifier={folders['vit']}", "ddpm=no-such"])["classifier"].keys() == {
        str(folders["vit"])
    }
    for wrong in ("vit", "clip=x", "classifier="):
        with pytest.raises(SystemExit, match="STEM=MODEL"):
            gallery.load_models([wrong])


def test_a_margin_leaves_the_art_whole_in_the_middle_of_more_ground():
    art = Image.new("RGBA", (40, 20), (0, 0, 0, 0))
    art.paste((200, 10, 10, 255), (0, 0, 40, 10))
    framed = np.asarray(training_classifier.on_ground(art, (0, 0, 255), 0.25))  # (30, 60, 3)
    assert framed.shape == (30, 60, 3)
    assert (framed[5:15, 10:50] == (200, 10, 10)).all()
    assert (framed[framed[..., 0] != 200] == (0, 0, 255)).all() and (framed[..., 0] == 200).sum() == 400


def test_ink_runs_along_edges_of_any_colour_and_not_around_the_picture():
    picture = Image.new("RGB", (64, 64), (200, 0, 0))
    picture.paste((0, 102, 0), (32, 0, 64, 64))  # equally bright as grey: only the colour differs
    assert np.ptp(np.asarray(picture.convert("L"))) <= 1
    for seed in range(8):
        random.seed(seed)
        inked = np.asarray(training_classifier.inked(picture))  # (64, 64, 3)
        assert (inked[1:-1, 31:33] < 90).all()
        assert (inked[:, :28] == (200, 0, 0)).all() and (inked[:, 36:] == (0, 102, 0)).all()


def test_augmentation_is_a_function_of_its_draw():
    train = open_source("emoji-sample", split="train", limit=12)
    samples = training_classifier.LabelledPictures(train, training_classifier.EMOJI, (0, 0, 0), (1, 1, 1))
    first, again, other = (
        torch.stack([samples.sample(i, draw)["pixels"] for i in range(12)])
        for draw in (torch.Generator().manual_seed(seed) for seed in (5, 5, 6))
    )
    assert torch.equal(first, again) and (first != other).flatten(1).any(1).all()
