"""The page `detection`: sentences, counts, its film, the HTTP API, bad input, and chromium, on a tiny model."""

import dataclasses
import io
import json
import re
import shutil

import httpx
import numpy as np
import pytest
import tiny_models
from hostile_pictures import (
    HOSTILE_NAMES,
    call,
    check_hostile_name,
    check_only_uploads_are_read,
    check_unreadable,
    fetched,
    odd_pictures,
    sent,
    text_of,
)
from opening import open_empty
from PIL import Image, PngImagePlugin
from test_ui import REFUSED, noise

from apps import detection as app
from apps.detection import words
from apps.detection.desk import Desk, Look
from apps.detection.film import Film
from apps.detection.paint import Doubles, Seen, colours_of, drawn, ink
from apps.detection.wanted import Reader, Verdict, Wish, everyday
from apps.kit import page as kit_page
from apps.kit import pictures, values
from hub_models import detection
from hub_models.detection import Detections
from hub_models.drawing import RECEIPT_KEY
from hub_models.store import CheckpointError
from training.data import terms
from training.data.boxes import open_boxes
from training.data.emoji.tables import LABELS

NAMES = ["face", "vehicle", "plant <b>"]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> detection.Detector:
    loaded = detection.load(str(tiny_models.detector(tmp_path_factory.mktemp("tiny"), label_names=NAMES)), "cpu")
    loaded.name, narrow = "tiny", loaded.detect

    def wide(pictures, threshold=None) -> list[Detections]:
        """Its boxes are three pixels wide, and overlap once they are larger."""
        edge = np.array([-20, -15, 20, 15], np.float32)
        return [dataclasses.replace(found, boxes=found.boxes + edge) for found in narrow(pictures, threshold)]

    loaded.detect = wide
    return loaded


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    noise((6, 5)).resize((60, 44), Image.Resampling.BICUBIC).save(path)
    return path


@pytest.fixture(scope="module")
def desk(model) -> Desk:
    return Desk({"tiny": model}, app.PAGE)


def of(*rows, names=NAMES, masks=None) -> Detections:
    """Things of rows (label, score, left, top, right, bottom), the surest first."""
    labels, scores, *edges = (np.array(column) for column in zip(*rows, strict=True))
    boxes = np.stack(edges, 1).astype(np.float32)
    return Detections(boxes, labels.astype(np.int64), scores.astype(np.float32), names, masks)


def seen_of(found: Detections, size=(100, 80)) -> Seen:
    return Seen(Image.new("RGB", size, (200, 200, 200)), found, len(found), 0.1)


# Two boxes of one face, of which the second shares 0.6 with the first and the third 0.6 with the second alone; a
# vehicle where the first is; something far off.
CROWD = of((0, 0.9, 0, 0, 40, 40), (1, 0.8, 0, 0, 40, 40), (0, 0.7, 10, 0, 50, 40), (0, 0.6, 20, 0, 60, 40),
           (2, 0.3, 70, 50, 90, 70))  # fmt: skip


# ---- what a sentence asks for ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "asked", "unknown"),
    [
        ("two faces and a car", {"face": "2", "vehicle": "1"}, []),
        ("A smiley, 3 dogs & at least two red apples", {"face": "1", "animal": "3", "food": "at least 2"}, []),
        ("a cat face to the left of a pizza, a blue car below", {"animal": "1", "food": "1", "vehicle": "1"}, []),
        ("faces", {"face": "at least 2"}, []),
        ("some food, no people", {"food": "at least 1", "person": "none"}, []),
        ("a crowd of people", {"person": "at least 2"}, []),
        ("at most 3 houses; more than one boat", {"building": "at most 3", "vehicle": "at least 2"}, []),
        ("the flag of Turks & Caicos Islands", {"flag": "1"}, []),
        ("a slice of pizza and a car key", {"food": "1", "object": "1"}, []),
        ("a woman’s hat, a jack-o-lantern", {"object": "1", "sport and event": "1"}, []),
        ("two women and three children", {"person": "5"}, []),
        ("two hearts, fork and knife with plate", {"symbol": "2", "object": "1"}, []),
        ("a couple of dogs and a dozen eggs", {"animal": "2", "food": "12"}, []),
        ("an emoji of a grinning face in noto style", {"face": "1"}, []),
        ("two unicorns and a zorb", {"animal": "2"}, ["zorb"]),
        ("zwei Gesichter", {}, ["zwei gesichter"]),
        ("and a of the", {}, []),
        ("", {}, []),
    ],
)
def test_a_sentence_asks_for_classes_by_what_things_are_called(text, asked, unknown):
    wishes, rest = Reader(LABELS).read(text)
    assert {wish.label: str(wish) for wish in wishes} == asked and rest == unknown


def test_the_names_of_a_models_own_classes_go_before_what_else_they_mean():
    own = Reader(["person", "car", "traffic light", "hot_dog"])
    wishes, rest = own.read("two people, a car, traffic lights, three hot dogs and a cat")
    assert {wish.label: str(wish) for wish in wishes} == {
        "person": "2", "car": "1", "traffic light": "at least 2", "hot_dog": "3",
    }  # fmt: skip
    assert rest == ["cat"], "no class of this model means an animal"


def test_terms_are_the_names_and_the_nouns_that_they_end_in():
    names = {"red zeppelin": "vehicle", "blue zeppelin": "vehicle", "flag: Cuba": "flag", "keycap: 1": "symbol",
             "face with a yak": "face", "old yak": "animal"}  # fmt: skip
    made = terms.terms_of(names)
    assert {"zeppelin", "red zeppelin", "car"} <= set(made["vehicle"]) and "keycap 1" in made["symbol"]
    assert "flag: Cuba" not in made["flag"] and "yak" not in made["animal"], "one name alone says nothing of its noun"
    assert tuple(made) == LABELS and made == json.loads(terms.written(made))
    kept = everyday()
    assert tuple(kept) == LABELS and len(set().union(*kept.values())) == sum(map(len, kept.values())) > 1500


def test_each_example_asks_for_what_it_is_painted_from():
    rows, reader = app.PAGE.examples, Reader(LABELS)
    assert len(rows) >= 8
    for row in rows:
        truth = [thing["label"] for thing in row["objects"]]
        wishes, rest = reader.read(row["said"])
        assert {wish.label: wish.low for wish in wishes} == {k: truth.count(k) for k in truth} and not rest, row["said"]
        assert {"license", "source"} <= set(row["objects"][0]) and row["set"] in ("new_scenes", "validation")


def test_what_is_missing_too_much_and_not_asked_for():
    wishes = [Wish("face", 2, 2, ("faces",)), Wish("vehicle", 0, 0), Wish("animal", 1, None), Wish("food", 0, 1)]
    verdict = Verdict(wishes, {"face": 1, "vehicle": 3, "animal": 4, "flag": 1}, ["zorb"])
    assert verdict.missing == {"face": 1} and verdict.too_many == {"vehicle": 3}
    assert verdict.not_asked_for == {"flag": 1} and not verdict.as_wanted
    said = words.judged(verdict)
    assert said == ("Missing: 1 face. Too many: 3 vehicles. Not asked for: 1 flag. No class of this model: zorb.")
    page = words.verdict_html(Verdict(wishes, verdict.found, ["<b>"]))
    assert "&lt;b&gt;" in page and page.count("✗") == 3 and page.count("✓") == 2
    right = Verdict([Wish("face", 1, None)], {"face": 3})
    assert right.as_wanted and words.judged(right) == "All there, and nothing else."
    assert not Verdict([], {}).as_wanted
    assert words.verdict_report(right)["wanted"] == [{"label": "face", "at_least": 1, "at_most": None, "words": []}]


def test_counts_in_words():
    counts = {"face": 3, "person": 2, "sport and event": 2, "box": 1, "baby": 2, " ": 2}
    assert words.listed(counts) == "3 faces, 2 people, 2 × sport and event, 1 box, 2 babies, 2 ×  "
    assert words.sentence(CROWD) == "3 faces, 1 vehicle, 1 plant <b>"
    page = words.counts_html(CROWD)
    assert "plant &lt;b&gt;" in page and "<b>" not in page and "90% to 60%" in page
    assert "<b>" not in words.things_html(seen_of(CROWD), CROWD)
    assert words.sentence(CROWD.only(np.zeros(5, bool))) == "nothing"


# ---- the film, painting, files ---------------------------------------------------------------------------------------


def test_the_film_says_who_silences_whom():
    film = Film.of(seen_of(CROWD), 0.1, Doubles(overlap=0.5))
    assert film.kept == [0, 1, 3, 4] and film.silenced(0) == [2], "what is silenced silences nobody"
    assert film.report()["steps"][0] == {"keeps": 0, "silences": [{"id": 2, "overlap": 0.6}]}
    assert film.report()["candidates"][2]["silenced_by"] == 0 and film.report()["silenced"] == 1
    across = Film.of(seen_of(CROWD), 0.1, Doubles(overlap=0.5, across=True))
    assert across.kept == [0, 3, 4] and across.silenced(0) == [1, 2]
    assert Film.of(seen_of(CROWD), 0.65, Doubles(overlap=0.99)).kept == [0, 1, 2]
    page = film.html()
    assert (
        page.count("<li data-step") == 5 and "silences face 70% (shares 60%)" in page and "<b>plant &lt;b&gt;" in page
    )
    assert page.count('class="waiting"') == 5 and 'data-fate="silenced" data-step="1"' in page
    assert "No candidate is that sure" in Film.of(seen_of(CROWD), 0.95, Doubles()).html()


def test_doubles_are_silenced_only_where_that_is_asked():
    seen = seen_of(CROWD)
    assert len(seen.found(0.5, Doubles())) == 4 and len(seen.found(0.9, Doubles())) == 0
    assert seen.found(0.5, Doubles(silence=True)).scores.tolist() == pytest.approx([0.9, 0.8, 0.6])


def test_boxes_and_masks_are_painted_in_the_colour_of_their_class():
    mask = np.zeros((2, 80, 100), bool)
    mask[0, 30:60, 20:60] = True
    found = of((0, 0.9, 20, 30, 60, 60), (1, 0.5, 70, 10, 140, 70), masks=mask)
    seen = seen_of(found)
    image = np.asarray(drawn(seen, found)).astype(int)
    assert image.shape == (614, 768, 3)
    assert image[345, 154].tolist() == list(seen.colours[0]), "the left edge of the box, at 20 of 100 pixels"
    inside, colour = image[345, 300], np.array(seen.colours[0])
    assert np.abs(inside - (0.55 * 200 + 0.45 * colour)).max() <= 1 and image[345, 480].tolist() == [200] * 3
    assert image[300, 766].tolist() == list(seen.colours[1]), "a box that reaches out ends at the picture's edge"
    kept = found.only(np.array([1]))
    assert kept.masks is not None and kept.masks.shape == (1, 80, 100) and not kept.masks.any()
    assert drawn(seen_of(found, (2000, 1600)), found.only(np.zeros(2, bool)), full=True).size == (2000, 1600)
    assert drawn(seen_of(of((0, 0.9, 5, 5, 1, 1)), (1, 50)), of((0, 0.9, 5, 5, 1, 1))).size == (15, 768)
    assert ink((255, 255, 0)) == (0, 0, 0) and ink((90, 0, 90)) == (255, 255, 255)
    assert len({*colours_of(list(LABELS))}) == len(LABELS)


def test_the_coco_file_is_one_that_training_and_pycocotools_read(tmp_path):
    mask = np.zeros((3, 80, 100), bool)
    mask[0, 30:60, 20:60], mask[1, :, 0] = True, True
    found = of((0, 0.9, 20, 30, 60, 60), (2, 0.8, -5, 10, 30, 200), (1, 0.5, 120, 10, 140, 70), masks=mask)
    seen, folder = seen_of(found), tmp_path / "train"
    said = words.coco(seen, found, "a.png")
    assert [row["bbox"] for row in said["annotations"]] == [[20, 30, 40, 30], [0, 10, 30, 70]], "one lies beside it"
    folder.mkdir()
    seen.picture.save(folder / "a.png")
    (folder / "_annotations.coco.json").write_text(json.dumps(said))
    shutil.copytree(folder, tmp_path / "valid")
    source = open_boxes(str(tmp_path), split="train")
    picture, things = source.pair(0)
    assert picture.size == (100, 80) and things.boxes.tolist() == [[20, 30, 60, 60], [0, 10, 30, 80]]
    assert [source.label_names[k] for k in things.labels] == ["face", "plant <b>"]
    from pycocotools import mask as coco_masks

    for row, pixels in zip(said["annotations"], mask, strict=False):
        packed = coco_masks.frPyObjects(row["segmentation"], 80, 100)
        assert np.array_equal(coco_masks.decode(packed).astype(bool), pixels) and row["area"] == pixels.sum()


# ---- the desk --------------------------------------------------------------------------------------------------------


def test_a_threshold_asks_the_model_nothing(model, photo):
    at, runs = Desk({"tiny": model}, app.PAGE), []
    counting = model.model.register_forward_hook(lambda *_: runs.append(1))
    [alone] = model.detect([Image.open(photo)], 0.3)
    runs.clear()
    _, found = at.found(Look(str(photo), "tiny", 30))
    assert np.array_equal(found.boxes, alone.boxes) and np.array_equal(found.scores, alone.scores)
    for threshold in (0, 20, 60, 100):
        at.found(Look(str(photo), "tiny", threshold, True))
        at.film(str(photo), "tiny", threshold, 50, True)
    counting.remove()
    assert len(runs) == 1


def test_a_picture_brings_its_sentence_along(desk, tmp_path):
    row = app.PAGE.examples[0]
    assert desk.own_words(str(app.PAGE.folder / row["file"])) == row["said"]

    def with_receipt(text: str) -> str:
        info = PngImagePlugin.PngInfo()
        info.add_text(RECEIPT_KEY, text)
        noise().save(tmp_path / "drawn.png", pnginfo=info)
        return str(tmp_path / "drawn.png")

    assert desk.own_words(with_receipt('{"schema": 1, "prompt": "two  red\\n apples"}')) == "two red apples"
    for text in ('{"prompt": 3}', '{"labels": ["face"]}', "{", "[]"):
        assert desk.own_words(with_receipt(text)) == ""
    assert len(desk.own_words(with_receipt(json.dumps({"prompt": "a cat " * 500})))) <= 400
    noise().save(tmp_path / "plain.jpg")
    assert desk.own_words(str(tmp_path / "plain.jpg")) == desk.own_words(None) == ""


@pytest.mark.parametrize("wanted", [None, 3, ["a face"], "", "  \n", "a unicorn", "a " * 300])
def test_a_sentence_that_asks_for_nothing_is_refused(desk, photo, wanted):
    with pytest.raises(values.InputError) as refused:
        desk.verdict(Look(str(photo), "tiny", 30), wanted)
    assert len(refused.value.message) > 20 and refused.value.message.endswith(".")


# ---- over HTTP -------------------------------------------------------------------------------------------------------

REST = {  # endpoint: good arguments after the picture
    "detection_check": ["two faces", "tiny", 30, False, 50, False],
    "detection_detect": ["tiny", 30, False, 50, False],
    "detection_steps": ["tiny", 5, 50, False],
}


@pytest.fixture(scope="module")
def address(model, serve_once) -> str:
    return serve_once(app.build({"tiny": model}))


def test_the_api_detects_checks_and_tells_the_steps(address, model, photo):
    file, picture = sent(address, photo), pictures.read_picture(str(photo))
    [found] = model.detect([picture], 0.3)
    event, (painted, coco, said) = call(address, "detection_detect", file, *REST["detection_detect"])
    assert event == "complete" and painted["orig_name"] == "tiny-boxes.png" and fetched(painted).shape == (563, 768, 3)
    assert [thing["label"] for thing in said["things"]] == [model.label_names[k] for k in found.labels]
    assert np.allclose([thing["box"] for thing in said["things"]], found.boxes, atol=0.01)
    assert said["counts"] == found.counts() and said["asked"]["threshold"] == 30 and said["candidates"] >= len(found)
    assert httpx.get(coco["url"]).json()["categories"] == [{"id": k + 1, "name": name} for k, name in enumerate(NAMES)]
    event, [verdict] = call(address, "detection_check", file, "1 face, no vehicles", *REST["detection_check"][1:])
    there = found.counts()
    assert event == "complete" and verdict["found"] == there
    assert verdict["too_many"] == {
        label: there.get(label, 0) - most for label, most in (("face", 1), ("vehicle", 0)) if there.get(label, 0) > most
    }
    event, [steps] = call(address, "detection_steps", file, "tiny", 1, 30, True)
    assert event == "complete"
    [all_of] = model.detect([picture], 0.01)
    by = detection.silenced_by(all_of, 0.3, across_classes=True)
    assert [row["silenced_by"] for row in steps["candidates"]] == [int(k) if k >= 0 else None for k in by]
    assert steps["kept"] == len(steps["steps"]) == (by < 0).sum()
    endpoints = httpx.get(f"{address}/gradio_api/info").json()["named_endpoints"]
    assert set(endpoints) == {f"/{name}" for name in REST} and all(e["description"] for e in endpoints.values())


@pytest.mark.parametrize("kind", REFUSED)
def test_unreadable_pictures_are_refused_with_the_reason(kind, address):
    check_unreadable(address, kind, REST)


def test_no_picture_other_peoples_files_and_addresses_are_refused(address):
    check_only_uploads_are_read(address, REST)


@pytest.mark.parametrize("kind", odd_pictures())
def test_odd_pictures_are_seen_at_their_own_size(kind, address, tmp_path):
    name, data, size = odd_pictures()[kind]
    (tmp_path / name).write_bytes(data)
    event, (painted, _, said) = call(
        address, "detection_detect", sent(address, tmp_path / name), *REST["detection_detect"]
    )
    assert event == "complete" and (said["width"], said["height"]) == size
    with Image.open(io.BytesIO(httpx.get(painted["url"]).content)) as image:
        assert image.size == pictures.shown_size(size) and not image.getexif()


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_hostile_file_names_are_harmless(name, address):
    check_hostile_name(address, name, "detection_detect", *REST["detection_detect"])


@pytest.mark.parametrize(
    ("endpoint", "at", "wrong", "reason"),
    [("detection_detect", 0, name, "Model must be one of: tiny") for name in ("unicorn", None, 3, ["tiny"])]
    + [("detection_detect", 1, value, "Threshold, in percent") for value in (-1, 101, float("nan"), "30", None, True)]
    + [("detection_detect", 2, value, "Silence doubles must be true or false") for value in ("yes", None, 1)]
    + [("detection_check", 4, value, "Overlap, in percent") for value in (-1, "x", [3])]
    + [("detection_check", 0, "a unicorn", "Nothing that tiny knows"), ("detection_check", 0, 7, "Say what should")]
    + [("detection_steps", 1, 101, "Candidates, in percent"), ("detection_steps", 3, 0, "Across classes must be")],
)
def test_parameters_that_cant_be_used_are_refused_with_the_reason(endpoint, at, wrong, reason, address, photo):
    rest = [*REST[endpoint][:at], wrong, *REST[endpoint][at + 1 :]]
    event, said = call(address, endpoint, sent(address, photo), *rest)
    assert event == "error" and reason in text_of(said)


# ---- in a browser ----------------------------------------------------------------------------------------------------


def wait_for(page, where: str, pattern: str) -> str:
    said = "([where, pattern]) => new RegExp(pattern).test(document.querySelector(where)?.innerText ?? '')"
    page.wait_for_function(said, arg=[where, pattern])
    return page.inner_text(where)


def slide(page, label: str, value: int) -> None:
    box = page.get_by_label(f"number input for {label}")
    box.fill(str(value))
    box.press("Tab")


@pytest.mark.timeout(300)
def test_a_person_counts_moves_the_threshold_asks_and_watches(page, address, model, desk, photo, tmp_path):
    open_empty(page, address, "detection")
    page.set_input_files("#detection-picture input[type=file]", photo)
    wait_for(page, "#detection-status", r"^tiny: .* in 60 × 44 px, of \d+ candidates")
    assert page.locator("#detection-take").count() == 0, "this picture brings no sentence"
    for threshold in (10, 30):
        slide(page, "Threshold, %", threshold)
        _, found = desk.found(Look(str(photo), "tiny", threshold))
        wait_for(page, "#detection-status", re.escape(words.sentence(found)))
    wait_for(page, "#detection-counts", re.escape(words.sentence(found).capitalize()))
    assert page.locator("#detection-counts tbody tr").count() == len(found.counts())

    page.locator("#detection-wanted textarea").fill("999 faces, no vehicles, a zorb")
    page.locator("#detection-check").click()
    said = wait_for(page, "#detection-verdict", "^Missing: ")
    assert f"{999 - found.counts().get('face', 0)} faces" in said and "No class of this model: zorb" in said
    page.locator("#detection-wanted textarea").fill("a zorb")
    page.locator("#detection-check").click()
    wait_for(page, "#detection-verdict", "Nothing that tiny knows is in this sentence")

    slide(page, "Candidates above, %", 1)
    slide(page, "Silenced from an overlap of, %", 10)
    page.locator("#detection-across input").check()
    film = desk.film(str(photo), "tiny", 1, 10, True)
    last = len(film.kept)
    wait_for(page, "#detection-film", f"Step 0 of {last}(.|\\n)*Kept: {last}. Silenced: {len(film.by) - last}")
    boxes = "#detection-film g[data-fate]"
    assert page.locator(f"{boxes}.waiting").count() == len(film.by) > last, "all candidates wait"
    page.get_by_role("button", name="Next").click()
    wait_for(page, "#detection-film", f"Step 1 of {last}")
    assert page.locator(f"{boxes}.now").count() == 1 + len(film.silenced(0))
    page.get_by_role("button", name="Play").click()
    wait_for(page, "#detection-film", f"Step {last} of {last}")
    assert page.locator(f"{boxes}.waiting").count() == 0 and page.get_by_role("button", name="Next").is_disabled()
    page.get_by_label("Silence doubles").check()
    _, kept = desk.found(Look(str(photo), "tiny", 30, True, 10, True))
    wait_for(page, "#detection-status", f"^tiny: {re.escape(words.sentence(kept))} in")

    for button, name in (("Painted PNG", "tiny-boxes.png"), ("COCO JSON", "tiny-coco.json"), ("JSON", "tiny.json")):
        with page.expect_download() as download:
            page.get_by_role("button", name=button, exact=True).click()
        assert download.value.suggested_filename == name
        download.value.save_as(tmp_path / name)
    assert len(json.loads((tmp_path / "tiny.json").read_text())["things"]) == len(kept)
    assert json.loads((tmp_path / "tiny-coco.json").read_text())["images"][0]["file_name"] == "photo.png"

    page.locator("#detection-picture").get_by_role("button", name="Remove Image").click()
    wait_for(page, "#detection-status", "Choose a picture first")
    assert page.locator("#detection-boxes img").count() == 0 and page.locator("#detection-film svg").count() == 0
    assert page.get_by_role("button", name="COCO JSON").is_disabled()


def test_an_example_brings_its_sentence_and_a_phone_shows_all_of_it(page, serve, model):
    broken = CheckpointError("emoji is a <b>git-lfs</b> pointer")
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(serve(app.build({"tiny": model, "emoji": broken})))
    page.get_by_role("alert").get_by_text("emoji is a <b>git-lfs</b> pointer").wait_for()
    wait_for(page, "#detection-status", "^tiny: ")  # of the example that it opens with
    page.locator("#detection-take").click()
    page.wait_for_function(
        "said => document.querySelector('#detection-wanted textarea').value === said",
        arg=app.PAGE.examples[0]["said"],
    )
    wait_for(page, "#detection-verdict", "Nothing that tiny knows|Missing|All there|Too many|Not asked for")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_without_examples_a_bad_picture_says_why_and_leaves_no_old_answer(
    page, serve, model, photo, tmp_path, monkeypatch
):
    monkeypatch.setattr(kit_page, "EXAMPLES", tmp_path / "absent")
    (tmp_path / "page.png").write_bytes(b"<html>404</html>")
    page.goto(serve(app.build({"tiny": model})))
    page.set_input_files("#detection-picture input[type=file]", photo)
    wait_for(page, "#detection-status", "^tiny: ")
    page.locator("#detection-picture").get_by_role("button", name="Remove Image").click()
    wait_for(page, "#detection-status", "Choose a picture first")
    page.set_input_files("#detection-picture input[type=file]", tmp_path / "page.png")
    page.get_by_text("page.png is not a readable image").first.wait_for()
    wait_for(page, "#detection-status", "Choose a picture first")
    assert page.locator("#detection-boxes img").count() == 0


def test_a_page_without_weights_says_what_is_missing():
    built = app.build(app.load_models(["no-such-variant"]))
    assert not [fn.api_name for fn in built.fns.values() if str(fn.api_name).startswith("detection_")]
    assert "no-such-variant" in json.dumps([str(getattr(block, "value", "")) for block in built.blocks.values()])
