"""The page `captioning`: what it says and paints, over the HTTP API, with bad input, in chromium, on tiny models."""

import io
import json
import math
import re
import sys
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
import tiny_models
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
    sent,
    text_of,
)
from opening import open_empty
from PIL import Image
from test_ui import REFUSED, noise

from apps import captioning as app
from apps.captioning import desk, paint, words
from apps.captioning import page as the_page
from apps.captioning.desk import Desk
from apps.captioning.paint import Looked
from apps.captioning.words import Said
from apps.kit import heat, pictures, values, visitors
from apps.kit import page as kit_page
from hub_models import captioning, clip
from hub_models.captioning import Caption, Evidence
from hub_models.publish import halves, packing
from hub_models.store import CheckpointError

KINDS = ["swin-bert", "vit-gpt2", "blip"]
RANKER = f"{the_page.RANKER}tiny"
HOW = {
    "decoding": "Greedy",
    "beams": 4,
    "count": 2,
    "length": 9,
    "temperature": 1,
    "top_p": 0.9,
    "prefix": "",
    "seed": 0,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("captioners")
    made = {kind: tiny_models.captioner(root / kind, kind) for kind in KINDS}
    halves.to_half(made["swin-bert"])
    packing.write_manifest(made["swin-bert"])
    return made | {"clip": tiny_models.dual_encoder(root / "clip")}


@pytest.fixture(scope="module")
def models(folders) -> dict:
    loaded = {kind: captioning.load(str(folders[kind]), device="cpu") for kind in KINDS}
    for kind, model in loaded.items():
        model.name = kind
    return loaded | {RANKER: clip.load(str(folders["clip"]), device="cpu")}


@pytest.fixture(scope="module")
def photo(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    noise((6, 5)).resize((60, 44), Image.Resampling.BICUBIC).save(path)
    return path


@pytest.fixture(scope="module")
def seen(photo) -> Image.Image:
    return pictures.read_picture(str(photo))


@pytest.fixture(scope="module")
def address(models, serve_once) -> str:
    return serve_once(app.build(models))


def how(**options) -> list:
    return list((HOW | options).values())


# ---- saying ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "said"),
    [
        (1, "100 %"),
        (0.618, "62 %"),
        (0.0312, "3.1 %"),
        (0.00104, "0.1 %"),
        (1 / 2345, "1 in 2,300"),
        (1 / 48.3e6, "1 in 48 million"),
        (1 / 2.1e9, "1 in 2.1 billion"),
        (1e-20, "10⁻²⁰"),
        (1e-300, "10⁻³⁰⁰"),
    ],
)
def test_chances_are_said_in_words(share, said):
    assert words.chance(math.log(share)) == said


def test_lines_are_cleaned_and_refused_with_the_limit_named():
    assert desk.check_lines(" a cat \n\n\u202ea  dog\x00\r\na cat\n👩\u200d🚀\n\ud83d") == [
        "a cat",
        "a dog",
        "👩\u200d🚀",
    ]
    assert len(desk.check_lines("\n".join(map(str, range(desk.MAX_LINES))))) == desk.MAX_LINES
    for text, message in (
        ("", "1 to 200 lines"),
        (" \n\t\n\u200b", "1 to 200 lines"),
        ("\n".join(map(str, range(201))), "at most 200"),
        ("\n".join(map(str, range(1000))), "at most 200"),
        ("\n" * 200_000, "at most 200"),
        ("\n" * 1_000_000, "262,144 bytes"),
        ("a" * 301, "at most 300"),
        ("a" * 200_000, "at most 300"),
        ("a" * 1_000_000, "262,144 bytes"),
        (None, "text"),
        (["a"], "text"),
        (3, "text"),
    ):
        with pytest.raises(values.InputError, match=message):
            desk.check_lines(text)


def test_the_worth_of_a_word_is_the_measured_drop(seen):
    def said(drop, share=0.5):
        log_prob = math.log(share)
        caption = Caption("cat", log_prob, [7], [log_prob], [("cat", slice(0, 1))])
        return words.worth(Looked(seen, caption, [Evidence("cat", None, drop, None)]), 0)

    assert "probability of 50 %. With the outlined region covered it is 13 %: 4.0 times less probable" in said(
        math.log(4)
    )
    assert "it is 50 %: 5.0 times more probable" in said(-math.log(5), 0.1)
    assert "hardly hangs on it" in said(0.01) and "over a million times" in said(900.0)
    assert "no attention over a grid" in said(None)


def test_texts_of_people_and_models_are_no_html():
    caption = Caption('<b>&"', -1.0, [7, 8], [-0.5, -0.5], [("<b>", slice(0, 1)), ('&"', slice(1, 2))])
    for made in (
        words.captions_html(Said("m", "p", [caption], [1])),
        words.words_html(caption),
        words.ranking_html([('<b>&"', 1.0)]),
    ):
        assert "&lt;b&gt;" in made and "<b>&" not in made


def test_equal_draws_are_shown_once_with_their_number(models, photo, monkeypatch):
    model = models["swin-bert"]
    one, other = model.caption(pictures.read_picture(str(photo)), num_beams=2, num_return_sequences=2)
    monkeypatch.setattr(model, "caption", lambda *_, **__: [one, other, one])
    order = desk.Order(model, pictures.read_picture(str(photo)), {})
    said = desk.say(order, "m", str(photo), threading.Event())
    assert said.captions == [one, other] and said.times == [2, 1]
    assert words.captions_html(said).count("said 2 times") == 1


# ---- painting --------------------------------------------------------------------------------------------------------


def test_the_colours_of_the_map_only_get_lighter():
    red, green, blue = heat.colours(np.linspace(0, 1, 200)).T
    for weights in ((0.2126, 0.7152, 0.0722), (0.1, 0.8, 0.1), (0.299, 0.587, 0.114)):
        assert (np.diff(weights[0] * red + weights[1] * green + weights[2] * blue) > 0).all()


def test_the_map_lies_over_what_the_model_sees_and_the_region_is_outlined():
    picture_ = noise((32, 32))
    attention, none = np.zeros((4, 4), np.float32), np.zeros((4, 4), bool)
    attention[0, 3] = 1
    large = picture_.resize((paint.MAP_PX, paint.MAP_PX), Image.Resampling.BICUBIC)
    assert np.array_equal(np.asarray(paint.heat_map(picture_, attention, none, 0)), np.asarray(large))
    full = np.asarray(paint.heat_map(picture_, attention, none, 100)).astype(int)
    assert np.abs(full[10, -10] - heat.VIRIDIS[-1]).max() < 12 and np.abs(full[-10, 10] - heat.VIRIDIS[0]).max() < 12
    region = attention == 1
    line = np.asarray(paint.heat_map(picture_, attention, region, 100)).astype(int)
    cell = paint.MAP_PX // 4
    assert (line[cell, -cell // 2] == 255).all() and (line[cell // 2, -cell] == 255).all(), "its lower and left edge"
    assert np.array_equal(line[2 * cell :], full[2 * cell :]), "nothing else"
    hidden = np.asarray(paint.covered_picture(picture_, region))
    mean = np.rint(np.asarray(picture_).mean((0, 1)))
    assert (hidden[cell // 2, -cell // 2] == mean).all() and not (hidden[-1, 0] == mean).all()


def test_evidence_is_kept_for_the_last_pictures_alone(models, photo):
    model, at, flag = models["swin-bert"], Desk(models, {}), threading.Event()
    captions = [model.score(pictures.read_picture(str(photo)), text) for text in ("a cat", "a dog", "a car")]
    first = at.look("swin-bert", str(photo), captions[0], flag)
    assert at.look("swin-bert", str(photo), captions[0], flag) is first
    assert first.log_prob(1) == pytest.approx(sum(captions[0].token_log_probs[captions[0].words[1][1]]))
    assert at.recent.limit == desk.KEPT
    at.recent.limit = 2
    at.look("swin-bert", str(photo), captions[1], flag)
    at.look("swin-bert", str(photo), captions[0], flag)
    at.look("swin-bert", str(photo), captions[2], flag)
    assert len(at.recent._kept) == 2 and at.look("swin-bert", str(photo), captions[0], flag) is first


def test_work_ends_when_nobody_waits_and_when_time_is_out(models, photo, monkeypatch):
    model, stop = models["swin-bert"], threading.Event()
    order = desk.check_order(model, str(photo), *how(decoding="Beams"))
    assert desk.say(order, "m", str(photo), stop).captions
    stop.set()
    with pytest.raises(values.InputError, match="Stopped"):
        desk.say(order, "m", str(photo), stop)
    monkeypatch.setattr(desk, "DEADLINE_SECONDS", -1)
    with pytest.raises(values.InputError, match="Out of time"):
        desk.say(order, "m", str(photo), threading.Event())
    with pytest.raises(values.InputError, match="Out of time"):
        Desk(models, {}).look("swin-bert", str(photo), model.score(order.picture, "a cat"), threading.Event())


# ---- models ----------------------------------------------------------------------------------------------------------


def test_models_are_named_captioners_first_and_a_ranker(folders):
    found = app.load_models([str(folders["blip"]), f"{the_page.RANKER}{folders['clip']}"])
    assert list(found) == [str(folders["blip"]), f"{the_page.RANKER}{folders['clip']}"]
    assert isinstance(list(found.values())[1], clip.CLIP)
    assert list(app.load_models([f"{the_page.RANKER}{folders['clip']}"])) == [
        *app.PAGE.models,
        f"{the_page.RANKER}{folders['clip']}",
    ]
    missing = app.load_models(["no-such-variant", f"{the_page.RANKER}nor-this"])
    assert all(isinstance(error, CheckpointError) for error in missing.values())


def test_what_cannot_be_loaded_is_named_and_the_rest_works(serve, page, models, photo, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    (tmp_path / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    broken = app.load_models([str(tmp_path), f"{the_page.RANKER}{tmp_path}"])
    page.goto(serve(app.build(broken)))
    page.get_by_role("alert").first.wait_for()
    assert page.get_by_role("alert").count() == 2 and page.locator("#captioning-picture").count() == 0
    assert "git-lfs" in page.inner_text("body").lower() or "LFS" in page.inner_text("body")

    half = {"swin-bert": models["swin-bert"], f"{the_page.RANKER}x": CheckpointError("x <b>is</b> broken")}
    open_empty(page, serve(app.build(half)), "captioning")
    page.set_input_files("#captioning-picture input[type=file]", photo)
    page.locator("#captioning-list [data-caption]").first.wait_for()
    page.get_by_role("tab", name="Which text fits?").click()
    page.get_by_role("alert").get_by_text("x <b>is</b> broken").wait_for()

    page.goto(serve(app.build({"emoji": CheckpointError("no captioner"), RANKER: models[RANKER]})))
    page.get_by_role("alert").get_by_text("no captioner").wait_for()
    page.locator("#captioning-picture img").wait_for()
    page.get_by_role("button", name="Rank them").click()
    page.locator("#captioning-ranking li").nth(2).wait_for()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_folder_is_served(kind, address, models, photo, seen):
    file = sent(address, photo)
    event, answer = call(address, "captioning_caption", file, kind, *how(decoding="Beams"))
    assert event == "complete", answer
    [said] = answer
    expected = models[kind].caption(seen, num_beams=4, num_return_sequences=2, max_new_tokens=9)
    assert [c["text"] for c in said["captions"]] == [c.text for c in expected]
    event, (painted, said) = call(address, "captioning_evidence", file, kind, "a red apple", 1, 40)
    assert event == "complete" and [each["word"] for each in said["words"]] == ["a", "red", "apple"]
    caption = models[kind].score(seen, "a red apple")
    found = models[kind].evidence(seen, caption)
    for each, evidence in zip(said["words"], found, strict=True):
        np.testing.assert_allclose(each["attention"], evidence.attention, atol=1e-3)
        assert each["covered"] == evidence.covered.astype(int).tolist()
        assert each["drop"] == pytest.approx(evidence.drop, abs=1e-3)
    assert sum(each["log_prob"] for each in said["words"]) < 0
    expected = paint.heat_map(models[kind].seen(seen), found[1].attention, found[1].covered, 40)
    assert np.abs(fetched(painted).astype(int) - np.asarray(expected)).max() <= 1


def test_a_model_without_maps_says_so(serve, page, models, photo, monkeypatch):
    monkeypatch.setattr(captioning.evidence, "grid_of", lambda states: None)
    address = serve(app.build({"swin-bert": models["swin-bert"], RANKER: models[RANKER]}))
    event, (painted, said) = call(address, "captioning_evidence", sent(address, photo), "swin-bert", "a dog", 0, 50)
    assert event == "complete" and painted is None and said["words"][0]["attention"] is None
    open_empty(page, address, "captioning")
    page.set_input_files("#captioning-picture input[type=file]", photo)
    page.locator("#captioning-words [data-word]").first.click()
    page.get_by_text("shows no attention over a grid of patches").wait_for()
    assert page.locator("#captioning-map img").count() == 0


# ---- over HTTP -------------------------------------------------------------------------------------------------------


def test_the_api_says_what_the_model_says(address, models, photo, seen):
    model, file = models["swin-bert"], sent(address, photo)
    orders = {
        "Greedy": {},
        "Beams": {"num_beams": 4, "num_return_sequences": 2},
        "Nucleus": {"do_sample": True, "num_return_sequences": 2, "top_p": 0.7, "temperature": 1.5, "seed": 5},
    }
    for decoding, settings in orders.items():
        options = how(decoding=decoding, top_p=0.7, temperature=1.5, prefix=" a\u202e red ", seed=str(2**70 + 5))
        event, answer = call(address, "captioning_caption", file, "swin-bert", *options)
        assert event == "complete", answer
        [said] = answer
        expected = model.caption(seen, max_new_tokens=9, prefix="a red", **settings)
        assert [c["text"] for c in said["captions"]] == [c.text for c in expected]
        np.testing.assert_allclose([c["log_prob"] for c in said["captions"]], [c.log_prob for c in expected], atol=1e-3)
        assert said["seed"] == ("5" if decoding == "Nucleus" else None)
        assert said["weights_sha256"] == model.weights_sha256
        for caption, mine in zip(said["captions"], expected, strict=True):
            assert [each["word"] for each in caption["words"]] == [word for word, _ in mine.words]
            assert caption["probability"] == pytest.approx(mine.probability, rel=1e-3)
    drawn = {
        call(address, "captioning_caption", file, "swin-bert", *how(decoding="Nucleus", seed=-1))[1][0]["seed"]
        for _ in range(2)
    }
    assert len(drawn) == 2 and all(0 <= int(seed) < 2**63 for seed in drawn)


def test_the_api_ranks_as_clip_does(address, models, photo, seen):
    lines = ["a red apple", "a cat", "a dog", "a house of the cat and the dog and a car in a green house"]
    event, answer = call(address, "captioning_rank", sent(address, photo), "\n".join([*lines, "", " a  cat "]))
    assert event == "complete", answer
    expected = models[RANKER].rank(seen, lines)
    assert [row["text"] for row in answer[0]["ranking"]] == [text for text, _ in expected]
    np.testing.assert_allclose(
        [row["probability"] for row in answer[0]["ranking"]], [p for _, p in expected], atol=1e-5
    )
    assert "1 of the lines" in answer[0]["notices"][0]


def test_endpoints_start_with_the_stem_and_are_described(address):
    endpoints = httpx.get(f"{address}/gradio_api/info").json()["named_endpoints"]
    assert set(endpoints) == {f"/captioning_{what}" for what in ("caption", "evidence", "rank")}
    assert all(endpoint["description"] for endpoint in endpoints.values())
    described = [p["parameter_name"] for p in endpoints["/captioning_caption"]["parameters"]]
    assert described == ["picture", "model", *HOW]


PICTURE_ENDPOINTS = {  # endpoint: the rest of good arguments
    "captioning_caption": ["swin-bert", *how()],
    "captioning_evidence": ["swin-bert", "a red apple", 0, 65],
    "captioning_rank": ["a cat\na dog"],
}


@pytest.mark.parametrize("kind", REFUSED)
def test_unreadable_pictures_are_refused_with_the_reason(kind, address):
    check_unreadable(address, kind, PICTURE_ENDPOINTS)


@pytest.mark.parametrize("kind", odd_pictures())
def test_odd_pictures_are_put_into_words(kind, address, models, tmp_path):
    name, data, size = odd_pictures()[kind]
    (tmp_path / name).write_bytes(data)
    upright = pictures.read_picture(str(tmp_path / name))
    assert upright.size == size
    file = sent(address, tmp_path / name)
    event, answer = call(address, "captioning_caption", file, "swin-bert", *how())
    assert (
        event == "complete"
        and answer[0]["captions"][0]["text"] == models["swin-bert"].caption(upright, max_new_tokens=9)[0].text
    )
    event, (painted, _) = call(address, "captioning_evidence", file, *PICTURE_ENDPOINTS["captioning_evidence"])
    assert event == "complete"
    with Image.open(io.BytesIO(httpx.get(painted["url"]).content)) as image:
        assert image.size == (paint.MAP_PX, paint.MAP_PX) and not image.getexif() and not image.info.get("exif")
    assert call(address, "captioning_rank", file, "a cat\na dog")[0] == "complete"


def test_no_picture_other_peoples_files_and_addresses_are_refused(address):
    check_only_uploads_are_read(address, PICTURE_ENDPOINTS)


def test_an_upload_above_the_limit_is_413(address):
    check_upload_above_the_limit(address)


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_hostile_file_names_are_harmless(name, address):
    check_hostile_name(address, name, "captioning_caption", "swin-bert", *how())


WRONG = {  # what is wrong, and what the refusal says
    "model": [
        (value, "one of: swin-bert, vit-gpt2, blip") for value in ("unicorn", None, 3, ["blip"], {"a": 1}, RANKER)
    ],
    "decoding": [(value, "one of: Greedy, Beams, Nucleus") for value in ("Magic", None, 3, ["Beams"])],
    "beams": [(value, "1 to 16") for value in (0, 17, 2.5, float("nan"), "4", True, None, [3])],
    "count": [(5, "1 to 4, the number of beams"), *((value, "1 to 16") for value in (0, 1e9, None, [2]))],
    "length": [(value, "1 to 64") for value in (0, 65, float("inf"), 1.5, None)],
    "temperature": [(value, "0.1 to 3") for value in (0, 99, float("nan"), "hot", None)],
    "top_p": [(value, "0.05 to 1") for value in (0, 1.5, -1, float("nan"), {})],
    "prefix": [
        ("a " * 15, "at most 14"),
        ("a" * 200_000, "2,000"),
        ("a" * 1_000_000, "262,144 bytes"),
        (3, "must be text"),
        (["a"], "must be text"),
    ],
    "seed": [(value, "whole number") for value in ("x", "1.5", "9" * 41, True, [1], float("nan"), 0.5)],
}


@pytest.mark.parametrize(("name", "value", "says"), [(name, *pair) for name, pairs in WRONG.items() for pair in pairs])
def test_settings_out_of_their_range_are_refused_and_it_is_named(name, value, says, address, photo):
    options = {"model": "swin-bert"} | HOW | {"decoding": "Beams", name: value}
    event, answer = call(address, "captioning_caption", sent(address, photo), *options.values())
    assert event == "error" and says in text_of(answer)


WRONG_TEXTS = [("", "a word at least"), (None, "a word"), (3, "text"), ("a " * 15, "at most 14"), ("a" * 9999, "2,000")]
MANY_LINES = "\n".join(map(str, range(1000)))
WRONG_LINES = [("", "1 to 200 lines"), (MANY_LINES, "at most 200"), ("a" * 301, "at most 300")]
WRONG_LINES += [(None, "must be text"), (["a"], "must be text")]


@pytest.mark.parametrize(
    ("endpoint", "rest", "says"),
    [("captioning_evidence", ["swin-bert", text, 0, 65], says) for text, says in WRONG_TEXTS]
    + [("captioning_evidence", ["swin-bert", "a cat", word, 65], "0 to 1") for word in (2, -1, 0.5, None, "0", 2**70)]
    + [("captioning_evidence", ["swin-bert", "a cat", 0, part], "0 to 100") for part in (-1, 101, math.nan, None, "65")]
    + [("captioning_rank", [lines], says) for lines, says in WRONG_LINES],
)
def test_what_else_is_out_of_range_is_refused(endpoint, rest, says, address, photo):
    event, answer = call(address, endpoint, sent(address, photo), *rest)
    assert event == "error" and says in text_of(answer)


def test_malformed_requests_leave_the_server_alive(address, photo):
    for body in (b"{", b"[]", b'{"data": 3}', b'{"data": []}', b'{"data": [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]}'):
        reply = httpx.post(
            f"{address}/gradio_api/call/captioning_caption", content=body, headers={"Content-Type": "application/json"}
        )
        if reply.status_code == 200:
            answer = httpx.get(f"{address}/gradio_api/call/captioning_caption/{reply.json()['event_id']}").text
            assert "event: error" in answer
        else:
            assert 400 <= reply.status_code < 500 or reply.status_code == 500
    hostile = "a\x00\u202e\ud800 <b>cat</b> 👩\u200d🚀"
    assert call(address, "captioning_rank", sent(address, photo), f"{hostile}\na dog")[0] == "complete"
    assert (
        call(address, "captioning_caption", sent(address, photo), "swin-bert", *how(prefix=hostile[:8]))[0]
        == "complete"
    )


@pytest.mark.timeout(400)  # seconds of work, but a hundred and fifty calls through a queue
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_stays_flat_over_a_hundred_bad_pictures(serve, models, photo, monkeypatch):
    monkeypatch.setattr(visitors, "CALLS", 16)  # every call here is a session of its own
    address = serve(app.build({"swin-bert": models["swin-bert"], RANKER: models[RANKER]}))
    check_memory_stays_flat(address, photo, "captioning_caption", "swin-bert", *how())


# ---- in a browser ----------------------------------------------------------------------------------------------------


def captions_of(page) -> list[str]:
    return page.locator("#captioning-list .text").all_inner_texts()


def status_says(page, pattern: str) -> None:
    page.locator("#captioning-status").get_by_text(re.compile(pattern)).wait_for()


def new_map(page, before: str | None = None) -> str:
    """The address of the map once it is there, and another than before."""
    page.wait_for_function(
        "before => { const map = document.querySelector('#captioning-map img'); return map && map.src !== before; }",
        arg=before,
    )
    return page.locator("#captioning-map img").first.get_attribute("src")


def words_of(caption) -> list[str]:
    return [word for word, _ in caption.words]


@pytest.mark.timeout(300)
def test_a_person_captions_a_picture_looks_at_words_and_ranks_lines(page, address, models, photo, seen):
    model = models["swin-bert"]
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    open_empty(page, address, "captioning")
    page.set_input_files("#captioning-picture input[type=file]", photo)
    status_says(page, "^swin-bert, greedy: ")
    greedy = model.caption(seen)[0]
    assert captions_of(page) == [greedy.text]
    page.get_by_text(f"{words.chance(greedy.log_prob)} as a whole").wait_for()

    page.get_by_role("radio", name="Beams").check()
    status_says(page, "^swin-bert, beams: ")
    found = model.caption(seen, num_beams=the_page.BEAM_COUNT, num_return_sequences=the_page.CAPTION_COUNT)
    assert captions_of(page) == [caption.text for caption in found]

    page.locator("#captioning-list [data-caption='1']").click()
    page.locator("#captioning-list [data-caption='1'][aria-pressed=true]").wait_for()
    chips = page.locator("#captioning-words [data-word]")
    assert chips.all_inner_texts() == words_of(found[1])
    page.get_by_role("button", name="Copy caption 2").click()
    page.locator("#captioning-list [data-done]").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == found[1].text

    looked = Looked(model.seen(seen), found[1], model.evidence(seen, found[1]))
    chips.first.click()
    source = new_map(page)
    page.locator("#captioning-worth").get_by_text(words.worth(looked, 0)).wait_for()
    first = shown(page, source)
    expected = paint.heat_map(looked.seen, looked.words[0].attention, looked.words[0].covered, paint.OPACITY)
    assert np.abs(first - np.asarray(expected)).max() <= 1
    last = chips.count() - 1
    chips.nth(last).focus()
    page.keyboard.press("Enter")
    source = new_map(page, source)
    page.locator(f"#captioning-words [data-word='{last}'][aria-pressed=true]").wait_for()
    page.wait_for_function(f"document.activeElement.dataset.word === '{last}'")  # the keyboard stays where it was
    assert np.abs(shown(page, source) - first).max() > 8, "another word, another map"
    page.get_by_role("radio", name="What was covered").check()
    source = new_map(page, source)
    hidden = paint.covered_picture(looked.seen, looked.words[last].covered)
    assert np.array_equal(shown(page, source), np.asarray(hidden))
    page.get_by_role("radio", name="Where it looked").check()
    source = new_map(page, source)
    box = page.get_by_label("number input for Opacity, %")
    box.fill("10")
    box.press("Tab")
    assert np.abs(shown(page, new_map(page, source)) - first).mean() > 1

    page.get_by_role("radio", name="Nucleus").check()
    status_says(page, r"^swin-bert, nucleus: .* Seed \d+\.")
    page.get_by_role("button", name="How it is said").click()
    page.get_by_label("New seed every time").uncheck()
    page.locator("#captioning-seed input, #captioning-seed textarea").fill("41")
    page.locator("#captioning-prefix input, #captioning-prefix textarea").fill("a red")
    page.locator("#captioning-prefix input, #captioning-prefix textarea").press("Enter")
    status_says(page, r"Seed 41\.")
    drawn = model.caption(
        seen,
        do_sample=True,
        num_return_sequences=the_page.CAPTION_COUNT,
        top_p=the_page.TOP_P,
        prefix="a red",
        seed=41,
    )
    assert captions_of(page) == list(dict.fromkeys(caption.text for caption in drawn))
    assert all(text.startswith("a red") for text in captions_of(page))
    assert page.locator("#captioning-map img").count() == 0, "no map of another caption stays"

    page.get_by_role("tab", name="Which text fits?").click()
    lines = ["a cat", "a red apple", "a <b>dog</b>"]
    page.wait_for_function("() => document.querySelector('#captioning-lines textarea')?.value.includes('smiling')")
    written(page.locator("#captioning-lines textarea"), "\n".join(lines))
    page.get_by_role("button", name="Rank them").click()
    page.locator("#captioning-ranking li").nth(2).wait_for()
    expected = models[RANKER].rank(seen, lines)
    assert page.locator("#captioning-ranking .text").all_inner_texts() == [text for text, _ in expected]
    assert page.locator("#captioning-ranking b").all_inner_texts() == [
        words.chance(math.log(share)) for _, share in expected
    ]
    widths = [box.bounding_box()["width"] for box in page.locator("#captioning-ranking .meter i").all()]
    assert widths == sorted(widths, reverse=True) and widths[0] / sum(widths) == pytest.approx(expected[0][1], abs=0.02)
    page.get_by_role("button", name="Copy as a table").click()
    page.locator("#captioning-ranking [data-done]").wait_for()
    assert page.evaluate("navigator.clipboard.readText()").splitlines()[0].endswith(f"\t{expected[0][0]}")


def written(box, text: str) -> None:
    """Type into the box of a tab that was just opened: on a busy machine gradio puts its first text there once more."""
    for _ in range(20):
        box.fill(text)
        box.press("Tab")
        box.page.wait_for_timeout(500)
        if box.input_value() == text:
            return
    raise AssertionError(f"the box holds {box.input_value()!r}")


def shown(page, source: str) -> np.ndarray:
    with Image.open(io.BytesIO(httpx.get(source).content)) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def test_an_example_on_a_phone_and_another_model(page, address, models):
    page.set_viewport_size({"width": 390, "height": 844})
    open_empty(page, address, "captioning")
    rows = json.loads((app.PAGE.folder / "index.json").read_text())
    page.get_by_text("Noto Emoji (Google, Apache-2.0)").wait_for()
    button = page.get_by_role("button", name=rows[0]["name"], exact=True)
    button.focus()
    page.keyboard.press("Enter")
    status_says(page, "^swin-bert, greedy")
    example = pictures.read_picture(str(app.PAGE.folder / rows[0]["file"]))
    assert captions_of(page) == [models["swin-bert"].caption(example)[0].text]
    page.get_by_role("radio", name="blip").check()
    status_says(page, "^blip, greedy")
    assert captions_of(page) == [models["blip"].caption(example)[0].text]
    page.locator("#captioning-words [data-word]").first.click()
    new_map(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_bad_input_says_why_and_leaves_no_old_answer(page, address, photo, tmp_path):
    (tmp_path / "page.png").write_bytes(b"<html>404</html>")
    open_empty(page, address, "captioning")
    page.get_by_role("tab", name="Which text fits?").click()
    page.get_by_role("button", name="Rank them").click()
    page.get_by_text("Upload a picture first").first.wait_for()
    page.get_by_role("tab", name="What does it show?").click()
    page.set_input_files("#captioning-picture input[type=file]", photo)
    status_says(page, "^swin-bert")
    page.get_by_role("button", name="How it is said").click()
    page.locator("#captioning-prefix input, #captioning-prefix textarea").fill("a " * 40)
    page.get_by_role("button", name="Caption it").click()
    page.get_by_text("this model reads at most 14").first.wait_for()
    status_says(page, "Nothing was said")
    assert captions_of(page) == []
    page.locator("#captioning-prefix input, #captioning-prefix textarea").fill("")
    page.locator("#captioning-picture").get_by_role("button", name="Remove Image").click()
    status_says(page, "Choose a picture first")
    page.set_input_files("#captioning-picture input[type=file]", tmp_path / "page.png")
    page.get_by_text("page.png is not a readable image").first.wait_for()
    status_says(page, "Nothing was said")


def slowed(model, steps: list):
    """`Captioner.caption` of the model, half a second a step, each of which is noted in `steps`."""

    def caption(image, *, on_step, **options):
        def step():
            steps.append(1)
            time.sleep(0.5)
            on_step()

        return captioning.Captioner.caption(model, image, on_step=step, **options)

    return caption


def test_a_request_that_was_overtaken_ends_no_later_answer(page, serve, models, photo, monkeypatch):
    model, steps, held = models["swin-bert"], [], []

    def hold_the_first(route):  # of those that end an answer, which know when they were sent
        picture, *sent_at = route.request.post_data_json["data"]
        ends = picture is None and [type(each) for each in sent_at] in ([float], [int])
        held.append(route) if ends and not held else route.continue_()

    open_empty(page, serve(app.build({"swin-bert": model})), "captioning")
    page.set_input_files("#captioning-picture input[type=file]", photo)
    status_says(page, "^swin-bert")
    before = captions_of(page)
    monkeypatch.setattr(model, "caption", slowed(model, steps))
    page.route("**/gradio_api/run/*", hold_the_first)
    page.locator("#captioning-picture").get_by_role("button", name="Remove Image").click()
    wait_for(page, lambda: held)  # what says that the picture is gone comes late
    page.set_input_files("#captioning-picture input[type=file]", photo)
    wait_for(page, lambda: steps)
    held[0].continue_()
    wait_for(page, lambda: len(steps) >= len(before[0].split()))
    status_says(page, "^swin-bert")
    assert captions_of(page) == before


@pytest.mark.timeout(120)
def test_stop_and_a_closed_page_end_the_work_and_let_others_in(page, serve, models, photo, monkeypatch, tmp_path):
    model, steps = models["swin-bert"], []
    monkeypatch.setattr(model, "caption", slowed(model, steps))
    monkeypatch.setattr(kit_page, "EXAMPLES", tmp_path)  # without any the page opens empty
    address = serve(app.build({"swin-bert": model}))
    page.goto(address)
    page.set_input_files("#captioning-picture input[type=file]", photo)
    status_says(page, "Looking for words")
    stop = page.get_by_role("button", name="Stop")
    wait_for(page, lambda: steps)
    stop.click()
    page.get_by_text("Stopped.").first.wait_for()
    status_says(page, "Nothing was said")
    page.locator("#captioning-stop:disabled").wait_for()
    assert len(steps) < 10

    steps.clear()
    page.get_by_role("button", name="Caption it").click()
    wait_for(page, lambda: steps)
    page.goto("about:blank")
    monkeypatch.undo()
    began = len(steps)
    assert call(address, "captioning_caption", sent(address, photo), "swin-bert", *how())[0] == "complete"
    assert len(steps) - began < 10, "it would have gone on to 15 tokens"


def wait_for(page, condition, seconds: float = 30) -> None:
    """Until the condition holds; meanwhile the page goes on, whose requests pass through this process."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        page.wait_for_timeout(50)
