"""The page `segmentation`: what it paints and says, over the HTTP API, with bad input, in chromium, on tiny models."""

import io
import json
import re
import sys
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from hostile_pictures import (
    HOSTILE_NAMES,
    call,
    check_hostile_name,
    check_memory_stays_flat,
    check_only_uploads_are_read,
    check_unreadable,
    check_upload_above_the_limit,
    fetched,
    odd_pictures,
    picture,
    sent,
    text_of,
    upload,
)
from opening import open_empty
from PIL import Image
from safetensors.torch import load_file, save_file
from test_ui import REFUSED, noise
from transformers import (
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
    SwinConfig,
    UperNetConfig,
    UperNetForSemanticSegmentation,
)

from apps import segmentation as app
from apps.kit import page as kit_page
from apps.kit import picture_page, pictures, values, visitors
from apps.segmentation import desk, paint, words
from apps.segmentation.desk import Desk
from apps.segmentation.paint import Seen
from hub_models import segmentation
from hub_models.publish import halves, packing
from hub_models.store import CheckpointError

LABELS = ["background", "face", "person", "animal", "plant <b>", "food"]
SIDE_PX = 32
CURVE = {"coverage": [0.25, 0.5, 1.0], "risk": [0.01, 0.02, 0.1]}


def save_tiny(folder: Path, kind: str) -> Path:
    """A folder of a random segmenter for 32 px tiles with opinions, as training writes it."""
    torch.manual_seed(3)
    own = {"resolution_px": SIDE_PX, "temperature": 0.3, "risk_coverage": CURVE}
    if kind == "unet":
        model = smp.Unet(
            "tu-resnet10t", encoder_weights=None, encoder_depth=3, decoder_channels=(16, 16, 8), classes=len(LABELS)
        )
    else:
        backbone = SwinConfig(
            image_size=SIDE_PX,
            patch_size=4,
            embed_dim=16,
            depths=[1, 1],
            num_heads=[1, 2],
            window_size=4,
            out_features=["stage1", "stage2"],
        )
        model = UperNetForSemanticSegmentation(
            UperNetConfig(
                backbone_config=backbone,
                hidden_size=16,
                pool_scales=[1, 2],
                use_auxiliary_head=False,
                num_labels=len(LABELS),
            )
        )
        basis = np.random.default_rng(0).normal(size=(16, 3)).tolist()
        own["pca"] = {"mean": [0.0] * 16, "basis": basis, "low": [-1.0] * 3, "high": [1.0] * 3}
    model.eval()
    segmentation.class_layer(model).weight.data.mul_(40)  # a fresh one is nearly indifferent
    processor = SegformerImageProcessor(size={"height": SIDE_PX, "width": SIDE_PX})
    segmentation.save_folder(folder, segmentation.Segmenter(model, processor, LABELS, name=kind, own=own))
    halves.to_half(folder)
    packing.write_manifest(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    return {kind: save_tiny(tmp_path_factory.mktemp(kind), kind) for kind in ("swin", "unet")}


@pytest.fixture(scope="module")
def models(folders) -> dict[str, segmentation.Segmenter]:
    loaded = {kind: segmentation.load(str(folder), device="cpu") for kind, folder in folders.items()}
    for kind, model in loaded.items():
        model.name = kind
    return loaded


@pytest.fixture(scope="module")
def photo(tmp_path_factory) -> Path:
    """A picture of more than one tile, 60 × 44 px, with large shapes."""
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    noise((6, 5)).resize((60, 44), Image.Resampling.BICUBIC).save(path)
    return path


def at_desk(models) -> Desk:
    return Desk(models, app.PAGE)


@pytest.fixture(scope="module")
def seen(models, photo) -> Seen:
    return at_desk(models).see(str(photo), "swin")


@pytest.fixture
def example(tmp_path, monkeypatch, photo) -> Path:
    """A folder of one example with its truth, in the place of the page's own."""
    folder = tmp_path / "examples" / app.PAGE.stem
    folder.mkdir(parents=True)
    (folder / "one.png").write_bytes(photo.read_bytes())
    mask = np.zeros((44, 60), np.uint8)
    mask[:, 20:40], mask[:, 40:] = 2, 255
    Image.fromarray(mask).save(folder / "one-mask.png")
    names = [LABELS[k] for k in (0, 2, 1)]  # not in the order of the models
    row = {"file": "one.png", "mask": "one-mask.png", "name": "one", "credit": "Somebody, CC0", "label_names": names}
    (folder / "index.json").write_text(json.dumps([row]))
    monkeypatch.setattr(kit_page, "EXAMPLES", folder.parent)
    return folder


# ---- painting and saying ---------------------------------------------------------------------------------------------


def quarters() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A grey picture (40, 40, 3), ids 0 left and 1 right, confidence 0.9 above and 0.2 below, a palette of two."""
    base, ids, confidence = (
        np.full((40, 40, 3), 100, np.uint8),
        np.zeros((40, 40), np.uint8),
        np.full((40, 40), 0.9, np.float32),
    )
    ids[:, 20:], confidence[20:] = 1, 0.2
    return base, ids, confidence, np.array([(200, 0, 0), (0, 0, 250)], np.uint8)


def test_painting_mixes_each_class_colour_at_the_opacity():
    base, ids, confidence, palette = quarters()
    out = paint.paint(base, ids, confidence, palette, opacity=40)
    assert out[10, 5].tolist() == [140, 60, 60] and out[10, 30].tolist() == [60, 60, 160]
    assert out[10, 19].tolist() == [164, 36, 36], "an edge is painted at 1.6 of the opacity"
    assert np.array_equal(paint.paint(base, ids, confidence, palette, opacity=0), base)
    half = paint.paint(base, ids, confidence, palette, opacity=100, hidden=[0])
    assert np.array_equal(half[:, :20], base[:, :20]) and (half[:, 20:] == palette[1]).all()


def test_what_is_less_sure_than_asked_is_blanked_and_nothing_else():
    base, ids, confidence, palette = quarters()
    sure, unsure = (paint.paint(base, ids, confidence, palette, below=below) for below in (0, 50))
    assert np.array_equal(sure[:20], unsure[:20])
    assert len(np.unique(unsure[20:].reshape(-1, 3), axis=0)) == 2 and unsure[20:].min() > 180, "two stripes, no class"
    edge = np.full((4, 4), 0.5, np.float32)
    whole = paint.paint(base[:4, :4], ids[:4, :4], edge, palette, below=50)
    assert np.array_equal(whole, paint.paint(base[:4, :4], ids[:4, :4], edge, palette)), (
        "as sure as asked is sure enough"
    )


def test_bands_and_255_leave_no_trace(monkeypatch):
    rng = np.random.default_rng(0)
    base, ids = rng.integers(0, 255, (50, 30, 3), np.uint8), rng.integers(0, 3, (50, 30)).astype(np.uint8)
    confidence, palette = rng.random((50, 30)).astype(np.float32), rng.integers(0, 255, (3, 3), np.uint8)
    whole = paint.paint(base, ids, confidence, palette, below=30)
    monkeypatch.setattr(paint, "BAND", 7)
    assert np.array_equal(whole, paint.paint(base, ids, confidence, palette, below=30))
    assert np.array_equal(paint.paint(base, np.full_like(ids, 255), None, palette, opacity=100), base)


def test_the_table_is_counted_from_the_pixels(seen, models):
    rows, result = words.table(seen), seen.result
    assert sum(row[1] for row in rows) == pytest.approx(100, abs=0.05)
    assert [row[1] for row in rows] == sorted((row[1] for row in rows), reverse=True) and len(rows) > 1
    for label, area, confidence in rows:
        mine = result.ids == LABELS.index(label)
        assert area == pytest.approx(100 * mine.mean(), abs=0.006)
        assert confidence == pytest.approx(100 * result.confidence[mine].mean(), abs=0.06)
    said = words.report(models["swin"], seen, 40)
    assert said["known_percent"] == pytest.approx(100 * (result.confidence >= 0.4).mean(), abs=0.01)
    assert [each["label"] for each in said["classes"]] == [row[0] for row in rows] and json.dumps(said)


def test_names_of_classes_are_text_and_no_html(seen):
    every = Seen(
        seen.picture,
        segmentation.Segmentation(
            np.arange(6, dtype=np.uint8)[None],
            np.ones((1, 6), np.float32),
            np.ones((6, 1, 6), np.float16),
            LABELS,
            seen.result.palette,
        ),
        0.1,
    )
    legend = words.legend_html(every, ["face"])
    assert "plant &lt;b&gt;" in words.table_html(every) and "<b>" not in words.table_html(every)
    assert "plant &lt;b&gt;" in legend and "<b>" not in legend and legend.count('aria-pressed="false"') == 1


def test_the_curve_is_read_between_its_points_and_absent_where_none_was_measured(seen, models):
    assert words.risk_at(CURVE, 0.75) == pytest.approx(0.06)
    assert words.risk_at({"coverage": [1.0, 0.5], "risk": [0.1, 0.02]}, 0.75) == pytest.approx(0.06)
    middling = float(100 * np.median(seen.result.confidence))
    known = seen.known(middling)
    said = words.curve_html(models["swin"], seen, middling)
    assert 0.4 < known < 0.6 and f"{words.risk_at(CURVE, known):.1%} of the surest {known:.0%}" in said
    assert "Nothing is left" in words.curve_html(models["swin"], seen, 100)

    class Plain:
        risk_coverage = None

    assert "without a measured" in words.curve_html(Plain, seen, 50)


def test_recent_results_are_kept_as_far_as_they_fit(models, photo, tmp_path, monkeypatch):
    other = tmp_path / "other.png"
    noise((60, 44)).save(other)
    at = at_desk(models)
    recent = at.recent
    first = at.see(str(photo), "swin")
    assert at.see(str(photo), "swin") is first
    assert at.see(str(photo), "unet") is not first
    recent.limit = 2 * first.nbytes + 1
    at.see(str(photo), "swin")  # the most recent of the two
    at.see(str(other), "swin")
    assert len(recent._kept) == 2 and at.see(str(photo), "swin") is first
    monkeypatch.setattr(desk, "DEADLINE_SECONDS", -1)
    with pytest.raises(values.InputError, match="Out of time after"):
        at_desk(models).see(write_large(tmp_path), "swin")


def write_large(folder: Path) -> str:
    noise((128, 128)).save(folder / "large.png")  # of more tiles than are seen at once
    return str(folder / "large.png")


def test_work_that_nobody_waits_for_stops_at_the_next_tiles(models, tmp_path):
    path, tiles, stop = write_large(tmp_path), [], threading.Event()

    def work(on_tile):
        def slowly(done, total):
            tiles.append(done)
            time.sleep(0.1)
            on_tile(done, total)

        return at_desk(models).see(path, "swin", slowly)

    [*steps, last] = desk.watched(work, stop)
    assert isinstance(last, Seen) and [done for done, _ in steps] == tiles and len(steps) > 2
    tiles.clear()
    running = desk.watched(work, stop)
    next(running)
    stop.set()
    with pytest.raises(desk.Stopped):
        list(running)
    assert len(tiles) < len(steps)
    tiles.clear()
    running = desk.watched(work, stop := threading.Event())
    next(running)
    running.close()  # as gradio does when the page is gone
    count = len(tiles)
    time.sleep(0.3)
    assert stop.is_set() and len(tiles) == count < len(steps)


def test_the_truth_of_an_example_is_known_by_its_content(example, models, photo, tmp_path):
    at = at_desk(models)
    truth = at.truth(str(photo), LABELS)
    assert np.unique(truth[:, :20]).tolist() == [0] and np.unique(truth[:, 20:40]).tolist() == [1]
    assert (truth[:, 40:] == 255).all()
    assert at.truth(str(photo), ["sky", "road"]) is None
    noise().save(tmp_path / "one.png")
    assert at.truth(str(tmp_path / "one.png"), LABELS) is None
    result = models["swin"].predict(pictures.read_picture(str(photo)))
    right = (result.ids == truth)[:, :40].mean()
    (_, _), said = at.compared(str(photo), "swin", desk.TRUTH)
    assert f"{right:.1%} of the pixels are right" in said


def test_files_are_named_after_models_without_their_folders():
    assert picture_page.file_stem("swin-scenes") == "swin-scenes" and picture_page.file_stem("/a/b c/../x\n/") == "x"
    assert picture_page.file_stem("org/repo@main") == "repo-main" and picture_page.file_stem("../..") == "model"


# ---- models that are not ours, or broken -----------------------------------------------------------------------------


def test_a_segformer_folder_is_served(serve, photo, tmp_path):
    torch.manual_seed(0)
    config = SegformerConfig(
        hidden_sizes=[8, 8, 16, 16],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=16,
        num_labels=3,
        id2label={0: "road", 1: "sky", 2: "tree"},
        label2id={"road": 0, "sky": 1, "tree": 2},
    )
    SegformerForSemanticSegmentation(config).save_pretrained(tmp_path)
    SegformerImageProcessor(size={"height": 64, "width": 64}).save_pretrained(tmp_path)
    [(name, model)] = app.load_models([str(tmp_path)]).items()
    address = serve(app.build({name: model}))
    [path] = upload(address, "photo.png", photo.read_bytes()).json()
    event, (mask, _, said) = call(address, "segmentation_predict", picture(path), name, 50, 0)
    assert event == "complete" and {each["label"] for each in said["classes"]} <= {"road", "sky", "tree"}
    assert np.array_equal(fetched(mask), model.predict(pictures.read_picture(str(photo))).ids)
    event, (image, said) = call(address, "segmentation_features", picture(path), name)
    assert event == "complete" and image is None and "without a basis" in said


def test_a_broken_checkpoint_gives_a_page_that_names_the_cause(folders, models, tmp_path, serve, page):
    weights = load_file(folders["swin"] / "model.safetensors")
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_text((folders["swin"] / name).read_text())
    key = next(key for key in weights if key.endswith("classifier.weight"))
    save_file({**weights, key: weights[key] * float("nan")}, tmp_path / "model.safetensors")
    errors = app.load_models([str(tmp_path), "no-such-variant"])
    assert all(isinstance(error, CheckpointError) for error in errors.values())
    page.goto(serve(app.build(errors)))
    page.get_by_role("alert").get_by_text("NaN").wait_for()
    text = page.inner_text("body")
    assert "no-such-variant" in text and str(tmp_path) in text and not page.query_selector("#segmentation-overlay")


# ---- over HTTP -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def address(models, serve_once) -> str:
    return serve_once(app.build(models))


def test_the_api_gives_the_ids_that_predict_gives(address, models, photo):
    file, result = sent(address, photo), models["swin"].predict(pictures.read_picture(str(photo)))
    event, (mask, painted, said) = call(address, "segmentation_predict", file, "swin", 65, 30)
    assert event == "complete" and mask["orig_name"] == "swin-mask.png" and np.array_equal(fetched(mask), result.ids)
    with Image.open(io.BytesIO(httpx.get(mask["url"]).content)) as image:
        assert image.mode == "P" and image.getpalette()[: 3 * len(LABELS)] == models["swin"].palette.ravel().tolist()
    expected = paint.paint(
        np.asarray(pictures.read_picture(str(photo))),
        result.ids,
        result.confidence,
        result.palette,
        opacity=65,
        below=30,
        hidden=[0],
    )
    assert np.array_equal(fetched(painted), expected)
    assert said["model"] == "swin" and said["width"] == 60 and said["height"] == 44
    assert {each["id"] for each in said["classes"]} == set(np.unique(result.ids).tolist())

    event, [at] = call(address, "segmentation_pixel", file, "unet", 59, 43)
    top = models["unet"].predict(pictures.read_picture(str(photo))).top(59, 43)
    assert event == "complete" and [each["label"] for each in at["top"]] == [label for label, _ in top]
    assert np.allclose([each["probability"] for each in at["top"]], [p for _, p in top], atol=1e-5)


def test_the_api_compares_and_shows_features(address, models, photo):
    file = sent(address, photo)
    ids = [models[name].predict(pictures.read_picture(str(photo))).ids for name in ("swin", "unet")]
    event, (pair, said) = call(address, "segmentation_compare", file, "swin", "unet")
    assert event == "complete" and f"agree on {np.mean(ids[0] == ids[1]):.1%}" in said
    assert {fetched(each).shape for each in pair} == {(563, 768, 3)}
    event, (image, said) = call(address, "segmentation_features", file, "swin")
    colours = models["swin"].features(pictures.read_picture(str(photo))).colours
    shown = fetched(image)
    assert shown.shape == (563, 768, 3) and np.array_equal(shown[0, 0], colours[0, 0]) and "16 features" in said
    assert call(address, "segmentation_features", file, "unet")[1][0] is None


def test_endpoints_start_with_the_stem_and_are_described(address):
    endpoints = httpx.get(f"{address}/gradio_api/info").json()["named_endpoints"]
    assert set(endpoints) == {f"/segmentation_{what}" for what in ("predict", "pixel", "compare", "features")}
    assert all(endpoint["description"] for endpoint in endpoints.values())


PICTURE_ENDPOINTS = {  # endpoint: the rest of good arguments
    "segmentation_predict": ["swin", 65, 0],
    "segmentation_pixel": ["swin", 0, 0],
    "segmentation_compare": ["swin", "unet"],
    "segmentation_features": ["swin"],
}


@pytest.mark.parametrize("kind", REFUSED)
def test_unreadable_pictures_are_refused_with_the_reason(kind, address):
    check_unreadable(address, kind, PICTURE_ENDPOINTS)


@pytest.mark.parametrize("kind", odd_pictures())
def test_odd_pictures_are_divided_at_their_own_size(kind, address, models, tmp_path):
    name, data, size = odd_pictures()[kind]
    (tmp_path / name).write_bytes(data)
    upright = pictures.read_picture(str(tmp_path / name))
    assert upright.size == size
    event, (mask, painted, said) = call(address, "segmentation_predict", sent(address, tmp_path / name), "swin", 65, 0)
    assert event == "complete" and (said["width"], said["height"]) == size
    assert np.array_equal(fetched(mask), models["swin"].predict(upright).ids)
    for file in (mask, painted):
        with Image.open(io.BytesIO(httpx.get(file["url"]).content)) as image:
            assert image.size == size and not image.getexif() and not image.info.get("exif")


def test_no_picture_other_peoples_files_and_addresses_are_refused(address):
    check_only_uploads_are_read(address, PICTURE_ENDPOINTS)


def test_an_upload_above_the_limit_is_413(address):
    check_upload_above_the_limit(address)


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_hostile_file_names_are_harmless(name, address):
    check_hostile_name(address, name, "segmentation_predict", "swin", 65, 0)


@pytest.mark.parametrize(
    ("endpoint", "rest"),
    [("segmentation_predict", [model, 65, 0]) for model in ("unicorn", None, 3, ["swin"], {"a": 1}, True)]
    + [
        ("segmentation_predict", ["swin", value, 0])
        for value in (-1, 101, float("nan"), float("inf"), "65", None, True)
    ]
    + [("segmentation_predict", ["swin", 65, value]) for value in (-1, 101, float("nan"), [3])]
    + [
        ("segmentation_pixel", ["swin", *at])
        for at in ((60, 0), (0, 44), (-1, 0), (1.5, 0), (None, 0), ("0", 0), (2**70, 0))
    ]
    + [("segmentation_compare", [left, "swin"]) for left in ("the sea", None, 0)],
)
def test_parameters_out_of_their_range_are_refused(endpoint, rest, address, photo):
    event, said = call(address, endpoint, sent(address, photo), *rest)
    assert event == "error" and len(text_of(said)) > 15, "no reason"


def test_refusals_name_what_can_be_asked(address, photo):
    file = sent(address, photo)
    assert "0 to 59" in text_of(call(address, "segmentation_pixel", file, "swin", 60, 0)[1])
    assert "swin, unet" in text_of(call(address, "segmentation_predict", file, None, 65, 0)[1])


@pytest.mark.timeout(400)  # seconds of work, but a hundred and fifty calls through a queue
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_stays_flat_over_a_hundred_bad_pictures(serve, models, photo, monkeypatch):
    monkeypatch.setattr(visitors, "CALLS", 16)  # every call here is a session of its own
    address = serve(app.build(models))
    check_memory_stays_flat(address, photo, "segmentation_predict", "swin", 65, 0)


def test_a_large_picture_keeps_its_size(address, tmp_path):
    noise((50, 30)).resize((2500, 1500)).save(tmp_path / "large.png")
    event, (mask, _, said) = call(
        address, "segmentation_predict", sent(address, tmp_path / "large.png"), "swin", 65, 20
    )
    assert event == "complete" and fetched(mask).shape == (1500, 2500) and said["known_percent"] > 0


# ---- in a browser ----------------------------------------------------------------------------------------------------


def status_says(page, pattern: str) -> None:
    page.locator("#segmentation-status").get_by_text(re.compile(pattern)).wait_for()


def overlay_source(page) -> str:
    return page.locator("#segmentation-overlay img").first.get_attribute("src")


def changed(page, before: str) -> str:
    """The overlay's address once it is another than before."""
    page.wait_for_function(
        "before => { const it = document.querySelector('#segmentation-overlay img'); return it && it.src !== before; }",
        arg=before,
    )
    return overlay_source(page)


def slide(page, label: str, value: int) -> None:
    box = page.get_by_label(f"number input for {label}")
    box.fill(str(value))
    box.press("Tab")


def cells(page, column: int) -> list[str]:
    return [
        row.locator("th, td").nth(column).inner_text() for row in page.locator("#segmentation-table tbody tr").all()
    ]


@pytest.mark.timeout(300)
def test_a_person_divides_a_photograph_and_takes_the_mask(page, address, models, photo, tmp_path):
    open_empty(page, address, "segmentation")
    page.set_input_files("#segmentation-picture input[type=file]", photo)
    status_says(page, r"swin: \d classes in 60 × 44 px")
    assert page.get_by_role("button", name="Mask PNG").is_enabled()
    source = overlay_source(page)
    page.get_by_role("radio", name="unet").check()
    status_says(page, "^unet")
    source = changed(page, source)
    result = models["unet"].predict(pictures.read_picture(str(photo)))

    for label, value in (("Opacity, %", 30), ("Don't know below, %", 60)):
        slide(page, label, value)
        source = changed(page, source)
    known = (result.confidence >= 0.6).mean()
    page.locator("#segmentation-curve").get_by_text(f"At 60 % and above: {known:.0%} of this picture").wait_for()

    image = page.locator("#segmentation-overlay img").first  # shown whole in its box, which has another shape
    place = image.bounding_box()
    scale = min(place["width"] / 768, place["height"] / 563)
    x, y = 40, 10
    left, top = (place["width"] - 768 * scale) / 2, (place["height"] - 563 * scale) / 2
    image.click(position={"x": left + (x + 0.5) / 60 * 768 * scale, "y": top + (y + 0.5) / 44 * 563 * scale})
    source = changed(page, source)  # a ring
    assert page.locator("#segmentation-x input").input_value() == str(x)
    assert page.locator("#segmentation-y input").input_value() == str(y)
    label = result.top(x, y)[0][0]
    page.locator("#segmentation-top h2").get_by_text(label, exact=True).wait_for()

    page.locator("#segmentation-legend button[data-label]").first.click()  # unpainted, or painted again
    source = changed(page, source)

    names = {"Mask PNG": "unet-mask.png", "Overlay PNG": "unet-overlay.png", "JSON": "unet.json"}
    for button, name in names.items():
        with page.expect_download() as download:
            page.get_by_role("button", name=button).click()
        assert download.value.suggested_filename == name
        download.value.save_as(tmp_path / name)
    with Image.open(tmp_path / "unet-mask.png") as mask:
        assert mask.mode == "P" and np.array_equal(np.asarray(mask), result.ids)
    with Image.open(tmp_path / "unet-overlay.png") as painted:
        assert painted.size == (60, 44)
    said = json.loads((tmp_path / "unet.json").read_text())
    assert said["model"] == "unet" and said["confidence_asked"] == 60

    rows = words.table(at_desk(models).see(str(photo), "unet"))
    assert cells(page, 0) == [row[0] for row in rows] and cells(page, 1) == [f"{row[1]:.2f}" for row in rows]
    for heading, column, expected in (
        ("Class", 0, sorted(row[0] for row in rows)),
        ("Confidence %", 2, [f"{row[2]:.1f}" for row in sorted(rows, key=lambda row: -row[2])]),
        ("Confidence %", 2, [f"{row[2]:.1f}" for row in sorted(rows, key=lambda row: row[2])]),
    ):
        page.locator("#segmentation-table").get_by_role("button", name=heading).click()
        assert cells(page, column) == expected

    both = (models[name].predict(pictures.read_picture(str(photo))).ids for name in ("swin", "unet"))
    page.get_by_text(f"They agree on {desk.agreement(*both):.1%} of the pixels").wait_for()
    assert page.locator("#segmentation-slider img").count() == 2
    page.get_by_text("16 features each").wait_for()

    page.get_by_role("button", name="Remove Image").click()
    status_says(page, "Choose a picture first")
    assert page.get_by_role("button", name="Mask PNG").is_disabled()
    assert (
        page.locator("#segmentation-overlay img").count() == 0
        and page.locator("#segmentation-legend button").count() == 0
    )


def test_an_example_shows_its_truth_and_one_model_is_enough(page, serve, models, example):
    broken = CheckpointError("street/model.safetensors is a <b>git-lfs</b> pointer")
    page.set_viewport_size({"width": 390, "height": 844})
    open_empty(page, serve(app.build({"swin": models["swin"], "street": broken})), "segmentation")
    page.get_by_role("alert").get_by_text("street/model.safetensors is a <b>git-lfs</b> pointer").wait_for()
    page.get_by_text("Somebody, CC0").wait_for()
    button = page.get_by_role("button", name="one", exact=True)
    button.focus()
    page.keyboard.press("Enter")
    page.get_by_text("Left: swin. Right: the picture.").wait_for()
    right = page.get_by_label("Right", exact=True)
    right.fill("the truth")  # not by a click: its list can open below the fold while the picture above it comes in
    right.press("Enter")
    page.get_by_text("of the pixels are right").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_without_examples_a_bad_picture_says_why_and_leaves_no_old_answer(
    page, serve, models, photo, tmp_path, monkeypatch
):
    monkeypatch.setattr(kit_page, "EXAMPLES", tmp_path / "absent")
    (tmp_path / "page.png").write_bytes(b"<html>404</html>")
    page.goto(serve(app.build({"swin": models["swin"]})))
    page.set_input_files("#segmentation-picture input[type=file]", photo)
    status_says(page, "^swin")
    page.locator("#segmentation-picture").get_by_role("button", name="Remove Image").click()
    status_says(page, "Choose a picture first")
    page.set_input_files("#segmentation-picture input[type=file]", tmp_path / "page.png")
    page.get_by_text("page.png is not a readable image").first.wait_for()
    status_says(page, "Choose a picture first")
    assert page.locator("#segmentation-overlay img").count() == 0
