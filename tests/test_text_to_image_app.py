"""The page `text_to_image`: in a real browser, through the API, with bad input, and with nothing to serve."""

import json
import re
import threading
import time

import numpy as np
import pytest
import tiny_models
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from apps import text_to_image as app
from apps.kit import pictures, values
from apps.text_to_image import desk, words
from apps.text_to_image.desk import Desk
from hub_models import store, text_to_image

GOOD = {
    "prompt": "a red apple",
    "negative": "",
    "count": 1,
    "seed": "3",
    "steps": 4,
    "guidance": 2.0,
    "sampler": "DDIM",
    "picture": None,
    "strength": 0.6,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    extra = {
        "latent_to_rgb": np.random.default_rng(0).normal(0, 0.4, (4, 3)).tolist(),
        "styles": ["noto", "<b>flat</b>"],
        "default_steps": 6,
        "guidance_scale": 2.0,
    }
    folder = tiny_models.stable_diffusion(tmp_path_factory.mktemp("tiny"), text="bert", extra=extra)
    return text_to_image.load(str(folder), device="cpu")


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """A Stable-Diffusion folder with a CLIPTextModel and none of our own files."""
    return text_to_image.load(
        str(tiny_models.stable_diffusion(tmp_path_factory.mktemp("foreign"), seed=1)), device="cpu"
    )


@pytest.fixture(scope="module")
def drawn(model, tmp_path_factory):
    """A PNG of the order GOOD, as it is downloaded."""
    path = tmp_path_factory.mktemp("drawn") / "apple.png"
    return save(desk.check_order(model, **GOOD), path)


def save(order: desk.Order, path, upto: int | None = None):
    for step in order.steps():
        if step.index + 1 == upto:
            break
    order.pngs(step)[0].save(path, pnginfo=png_info(order.pngs(step)[0].info))
    return path


def png_info(text):
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for key, value in text.items():
        info.add_text(key, value)
    return info


def altered(source, path, *, receipt=None, pixel=None, text=None):
    """A copy of a PNG with fields of its receipt, a pixel or all of its text changed."""
    with Image.open(source) as image:
        picture, chunks = image.convert("RGB"), dict(image.text)
    if receipt is not None:
        chunks["vitrail"] = json.dumps(json.loads(chunks["vitrail"]) | receipt)
    if pixel is not None:
        picture.putpixel((5, 5), pixel)
    picture.save(path, pnginfo=png_info(chunks if text is None else text))
    return path


# ---- in a browser ----------------------------------------------------------------------------------------------------


def set_number(page, label, value):
    box = page.get_by_label(f"number input for {label}")
    box.fill(str(value))
    box.press("Tab")


def wait_for_text(page, where, pattern):
    page.wait_for_function(
        "([where, pattern]) => new RegExp(pattern).test(document.querySelector(where)?.innerText ?? '')",
        arg=[where, pattern],
    )
    return page.inner_text(where)


# Collects every distinct first picture that the sheet shows from now on.
WATCH = """() => {
  window.seen = [];
  const sheet = document.querySelector('#text-to-image-sheet');
  new MutationObserver(() => {
    const image = sheet.querySelector('img');
    if (image && !window.seen.includes(image.src)) window.seen.push(image.src);
  }).observe(sheet, { childList: true, subtree: true, attributes: true });
}"""
STATUS, SENT, SHEET, NOTE = (f"#text-to-image-{part}" for part in ("status", "sent", "sheet", "receipt"))


def drop(page, path):
    box = page.locator("#text-to-image-png")
    if box.get_by_label("Clear").count():
        box.get_by_label("Clear").click()
        page.wait_for_function(
            "() => document.querySelector('#text-to-image-receipt').innerText.includes('Drop a PNG')"
        )
    box.locator("input[type=file]").set_input_files(str(path))


def test_write_watch_stop_download_restore_and_verify_in_a_browser(serve, page, model, tmp_path):
    slowed = model.pipe.unet.register_forward_pre_hook(lambda *_: time.sleep(0.02))  # as a model worth watching
    page.goto(serve(app.build({"tiny": model})))
    wait_for_text(page, STATUS, "An example")  # what the page opens with
    assert page.locator("[data-save]").count() == 4
    wait_for_text(page, SENT, "No prompt")
    prompt = page.locator("#text-to-image-prompt textarea, #text-to-image-prompt input")
    prompt.fill("a red apple")
    page.get_by_role("radio", name="noto").check()
    wait_for_text(page, SENT, "a red apple, noto style")
    page.get_by_label("Negative prompt").fill("a blue car")
    set_number(page, "Pictures", 1)
    set_number(page, "Steps", 20)
    set_number(page, "Guidance", 2.3)
    page.get_by_role("radio", name="UniPC").check()

    page.evaluate(WATCH)
    prompt.press("Enter")
    wait_for_text(page, STATUS, "Done")
    assert len(page.evaluate("window.seen")) >= 4, "three previews and the picture"
    assert "Done: 20 steps" in wait_for_text(page, STATUS, "Done")
    seed = page.input_value("#text-to-image-seed textarea, #text-to-image-seed input")
    assert seed in page.inner_text(STATUS) and seed in page.inner_text(SHEET)
    with page.expect_download() as download:
        page.get_by_role("button", name="Download PNG").click()
    assert download.value.suggested_filename == f"a-red-apple-noto-style-{seed}.png"
    download.value.save_as(path := tmp_path / "apple.png")
    text = pictures.read_png_text(path)
    assert text["parameters"].startswith(
        "a red apple, noto style\nNegative prompt: a blue car\nSteps: 20, Sampler: UniPC"
    )
    assert json.loads(text["vitrail"])["seed"] == seed

    prompt.fill("a cat")  # a second drawing, stopped: what is done stays
    page.get_by_role("radio", name="DDIM").check()
    page.get_by_role("radio", name="any style").check()
    page.get_by_label("Negative prompt").fill("")
    set_number(page, "Pictures", 3)
    set_number(page, "Steps", 100)
    prompt.press("Enter")
    wait_for_text(page, STATUS, "^Step")
    page.get_by_role("button", name="Stop").click()
    done = int(re.search(r"Stopped after (\d+) of 100 steps", wait_for_text(page, STATUS, "Stopped"))[1])
    assert 1 <= done < 100 and page.locator("[data-save]").count() == 3
    page.wait_for_selector("#text-to-image-draw:not([disabled])")
    slowed.remove()

    drop(page, path)  # the first picture's settings return
    wait_for_text(page, NOTE, "Settings restored")
    wait_for_text(page, SENT, "a red apple, noto style")
    assert prompt.input_value() == "a red apple" and page.get_by_role("radio", name="noto").is_checked()
    assert page.get_by_label("Negative prompt").input_value() == "a blue car"
    numbers = [
        page.get_by_label(f"number input for {name}").input_value() for name in ("Pictures", "Steps", "Guidance")
    ]
    assert numbers == ["1", "20", "2.3"] and page.get_by_role("radio", name="UniPC").is_checked()
    assert page.input_value("#text-to-image-seed textarea, #text-to-image-seed input") == seed
    assert not page.get_by_label("New seed every time").is_checked()
    page.get_by_role("button", name="Verify").click()
    wait_for_text(page, NOTE, "^Identical")
    page.get_by_role("button", name="Cancel").wait_for(state="hidden")
    slowed = model.pipe.unet.register_forward_pre_hook(lambda *_: time.sleep(0.3))
    page.get_by_role("button", name="Verify").click()
    page.get_by_role("button", name="Cancel").click()
    wait_for_text(page, NOTE, r"stopped after \d+ of 20 steps")
    page.get_by_role("button", name="Cancel").wait_for(state="hidden")
    slowed.remove()

    page.get_by_role("button", name="Draw", exact=True).click()  # and they draw the same picture
    wait_for_text(page, STATUS, "Done: 20")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download PNG").click()
    download.value.save_as(tmp_path / "again.png")
    assert np.array_equal(np.asarray(Image.open(path)), np.asarray(Image.open(tmp_path / "again.png")))

    drop(page, altered(path, tmp_path / "other.png", receipt={"guidance_scale": 7.0}))
    wait_for_text(page, NOTE, "Settings restored")
    page.get_by_role("button", name="Verify").click()
    assert re.search(r"Altered since it was drawn: guidance\.", wait_for_text(page, NOTE, "^Different"))

    page.get_by_role("button", name="Start from it").click()  # image-to-image from what was drawn
    page.wait_for_selector(".v-picture img >> nth=0")
    prompt.fill("words " * 20)
    wait_for_text(page, SENT, "The prompt is cut")
    page.get_by_role("button", name="Draw", exact=True).click()
    wait_for_text(page, STATUS, "Done: 12 steps.*leaves out")
    prompt.fill("x" * 2001)
    page.get_by_role("button", name="Draw", exact=True).click()
    page.get_by_text("Prompt has 2,001 characters").first.wait_for()
    wait_for_text(page, STATUS, "Not drawn")


def test_models_that_cannot_be_loaded_leave_a_page_that_names_the_cause(serve, page, model, foreign, tmp_path):
    (tmp_path / "model_index.json").write_text("<html>")
    models = app.load_models([str(tmp_path), "moon"])
    assert all(isinstance(error, store.CheckpointError) for error in models.values())
    page.goto(serve(app.build(models)))
    page.wait_for_selector("[role=alert]")
    text = page.inner_text("body")
    assert "moon" in text and str(tmp_path) in text and not page.query_selector(SHEET)

    # The rest of the page serves what did load; another model brings its own fields, no preview where it has no map.
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(serve(app.build({"moon": models["moon"], "tiny": model, "foreign": foreign})))
    page.wait_for_selector("[role=alert]")
    page.get_by_role("radio", name="foreign").check()
    page.wait_for_function("() => !document.body.innerText.includes('noto')")
    page.locator("#text-to-image-prompt textarea, #text-to-image-prompt input").fill("a cat")
    set_number(page, "Steps", 3)
    page.get_by_role("button", name="Draw", exact=True).click()
    page.wait_for_selector("[data-save]")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


# ---- through the API -------------------------------------------------------------------------------------------------


def test_the_api_draws_reads_and_verifies(serve, model, tmp_path):
    client = Client(serve(app.build({"tiny": model})), verbose=False, download_files=str(tmp_path))
    endpoints = client.view_api(return_format="dict")["named_endpoints"]
    assert set(endpoints) == {f"/text_to_image_{name}" for name in ("draw", "film", "fork", "settings", "verify")}
    for endpoint in endpoints.values():
        assert endpoint["description"] and all(parameter["label"] for parameter in endpoint["parameters"])

    order = {"prompt": "a red\u202e apple\u200b", "negative_prompt": "", "count": 2, "steps": 3, "guidance": 2}
    order |= {"sampler": "DPM-Solver++", "picture": None, "strength": 0.6, "model": "tiny"}
    gallery, receipts, notices = client.predict(seed=str(2**70 + 2**63 - 1), api_name="/text_to_image_draw", **order)
    assert [receipt["seed"] for receipt in receipts] == [str(2**63 - 1), "0"] and notices == []
    assert {receipt["prompt"] for receipt in receipts} == {"a red apple"}
    second = gallery[1]["image"]
    (*_, step) = model.generate("a red apple", [0], num_inference_steps=3, guidance_scale=2.0, sampler="dpm++")
    alone = np.asarray(model.decode(step.latents)[0]).astype(int)
    assert np.abs(np.asarray(Image.open(second)).astype(int) - alone).max() <= 1

    found = client.predict(handle_file(second), "tiny", api_name="/text_to_image_settings")
    assert (
        found["settings"]
        == {
            "prompt": "a red apple",
            "negative_prompt": "",
            "num_inference_steps": 3,
            "guidance_scale": 2.0,
            "sampler": "dpm++",
            "seed": "0",
        }
        and found["weights_here"]
        and found["problems"] == []
    )
    verdict = client.predict(handle_file(second), None, "tiny", api_name="/text_to_image_verify")
    assert verdict["verdict"] in ("identical", "within 1/255") and verdict["fields"] == []

    plain = tmp_path / "plain.png"
    Image.new("RGB", (8, 8)).save(plain)
    with pytest.raises(AppError, match="carries no receipt"):
        client.predict(handle_file(str(plain)), None, "tiny", api_name="/text_to_image_verify")
    for change in ({"steps": 1000}, {"guidance": 99}, {"sampler": "Heun"}, {"count": 9}, {"prompt": "x" * 2001}):
        with pytest.raises(AppError):
            client.predict(seed="0", api_name="/text_to_image_draw", **(order | change))
    with pytest.raises(AppError, match="2,001 characters, at most 2,000"):
        client.predict(seed="0", api_name="/text_to_image_draw", **(order | {"prompt": "x" * 2001}))


# ---- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prompt": "x" * 2001}, "Prompt has 2,001 characters, at most 2,000"),
        ({"prompt": "\u0958" * 1999}, "Prompt has 3,998 characters, at most 2,000"),  # longer once normalised
        ({"prompt": 7}, "Prompt must be text"),
        ({"prompt": ["a"]}, "Prompt must be text"),
        ({"negative": "x" * 10**6}, "Negative prompt has 1,000,000 characters"),
        ({"prompt": "x" * 1995, "style": "noto"}, "Prompt has 2,007 characters"),
        ({"style": "oil"}, "any style, noto"),
        ({"count": 9}, "1 to 8"),
        ({"count": True}, "1 to 8"),
        ({"steps": 0}, "1 to 100"),
        ({"steps": 2.5}, "1 to 100"),
        ({"steps": 1e6}, "1 to 100"),
        ({"steps": float("nan")}, "1 to 100"),
        ({"steps": None}, "1 to 100"),
        ({"guidance": 0}, "1 to 20"),
        ({"guidance": float("inf")}, "1 to 20"),
        ({"sampler": "dpm++"}, "DPM-Solver"),
        ({"sampler": None}, "DPM-Solver"),
        ({"seed": "1.5"}, "whole number"),
        ({"seed": "seven"}, "whole number"),
        ({"seed": "9" * 5000}, "whole number"),
        ({"seed": 0.5}, "whole number"),
        ({"picture": "/etc/hostname.png"}, "no such picture"),
    ],
)
def test_a_parameter_out_of_its_range_is_an_error_that_says_so(model, change, words):
    with pytest.raises((values.InputError, pictures.PictureError), match=words):
        desk.check_order(model, **(GOOD | change))


def test_strength_counts_only_with_a_picture(model, drawn):
    desk.check_order(model, **(GOOD | {"strength": None}))
    with pytest.raises(values.InputError, match="Strength must be"):
        desk.check_order(model, **(GOOD | {"strength": 0, "picture": str(drawn)}))


@pytest.mark.parametrize(
    ("seed", "used"), [("-2", 2**63 - 2), (str(2**70 + 5), 5), (" 12 ", 12), (7.0, 7), (str(2**63 - 1), 2**63 - 1)]
)
def test_seeds_are_reduced_and_keep_their_digits(model, seed, used):
    order = desk.check_order(model, **(GOOD | {"seed": seed, "count": 2}))
    assert order.seeds == [used, (used + 1) % 2**63]


def test_an_empty_seed_is_a_fresh_one(model):
    assert len({desk.check_order(model, **(GOOD | {"seed": seed})).seeds[0] for seed in ("", None, "-1", "")}) > 1


@pytest.mark.parametrize(
    ("prompt", "sent"),
    [
        (None, ""),
        ("", ""),
        (" \t\n ", ""),
        ("a\0 red\u202e\u2066 apple\u200b", "a red apple"),
        ("a \ud83c\udf4e and half \ud83c", "a 🍎 and half"),
        ("two\nlines", "two lines"),
    ],
)
def test_prompts_are_normalised_and_drawn(model, prompt, sent):
    order = desk.check_order(model, **(GOOD | {"prompt": prompt, "steps": 1}))
    assert order.prompt == sent
    assert ("No prompt" in " ".join(order.notices())) == (sent == "")
    assert len(order.pngs(next(order.steps()))) == 1


def test_what_is_cut_is_said(model):
    order = desk.check_order(model, **(GOOD | {"prompt": "a red apple and a green house and a blue flag"}))
    [notice] = order.notices()
    assert "leaves out “" in notice and notice.endswith("blue flag”.")
    shown = words.sent_html(model, order.prompt, "any style", "")
    cut = re.search("“(.*)”", notice)[1]
    assert f"<del>{cut}</del>" in shown and "The prompt is cut" in shown


def test_an_empty_prompt_is_said_to_be_none(model):
    [notice] = desk.check_order(model, **(GOOD | {"prompt": " \u200b"})).notices()
    assert "unconditional" in notice


def test_styles_are_added_and_taken_off_again(model):
    for prompt in ("a red apple", "", "apple, noto style"):
        for style in desk.style_choices(model):
            sent = desk.with_style(prompt, style)
            again = desk.with_style(*desk.without_style(sent, model.styles))
            assert again == sent
    assert desk.with_style("a cat", "noto") == "a cat, noto style" and desk.without_style("a cat", ["noto"]) == (
        "a cat",
        "any style",
    )


def test_words_of_others_are_text_in_the_page_and_never_markup(model, drawn, tmp_path):
    nasty = "<img src=x onerror=alert(1)>"
    order = desk.check_order(model, **(GOOD | {"prompt": nasty, "steps": 1}))
    (step,) = order.steps()
    pages = [
        words.sheet_html([b"png"], order),
        words.sent_html(model, nasty, "any style", ""),
        words.sent_html(model, "", nasty, ""),
    ]
    fields = {"prompt": nasty, "model": nasty, "device": nasty, "sampler": nasty, "weights_sha256": nasty}
    found = Desk({"tiny": model}).read(altered(drawn, tmp_path / "x.png", receipt=fields), "tiny")
    pages += [words.restored_html(found), words.preview_html(step, order.seeds)]
    assert not [page for page in pages if "<img src=x" in page]


# ---- receipts --------------------------------------------------------------------------------------------------------


def judged(path, model, start=None):
    found = Desk({"tiny": model}).read(path, "tiny")
    return desk.verify(found, model, str(path), start), found


def test_verify_names_each_altered_field(model, drawn, tmp_path):
    verdict, _ = judged(drawn, model)
    assert (verdict.state, verdict.fields) == ("identical", ())
    changes = {"prompt": "a blue cat", "seed": "4", "guidance_scale": 5.0, "num_inference_steps": 6, "sampler": "ddpm"}
    changes |= {"negative_prompt": "green", "weights_sha256": "0" * 64, "device": "cuda"}
    for name, value in changes.items():
        path = altered(drawn, tmp_path / "altered.png", receipt={name: value})
        verdict, found = judged(path, model)
        assert name in verdict.fields
        assert verdict.state == ("identical" if name in ("device", "weights_sha256") else "different"), name
        page = words.verdict_html(verdict, found)
        assert f"Altered since it was drawn: {words.FIELDS.get(name, name)}." in page and "verdict bad" in page
    verdict, found = judged(altered(drawn, tmp_path / "altered.png", pixel=(255, 0, 255)), model)
    assert verdict.state == "different" and "picture" in verdict.fields
    assert "Altered since it was drawn: the pixels." in words.verdict_html(verdict, found)


def test_a_stopped_picture_says_so_and_is_drawn_again_as_far(model, tmp_path):
    path = save(desk.check_order(model, **(GOOD | {"steps": 12})), tmp_path / "stopped.png", upto=5)
    assert json.loads(pictures.read_png_text(path)["vitrail"])["steps_done"] == 5
    assert Desk({"tiny": model}).read(path, "tiny").settings["num_inference_steps"] == 12
    verdict, found = judged(path, model)
    assert (verdict.state, verdict.fields) == ("identical", ()) and "Stopped after" in words.verdict_html(
        verdict, found
    )
    verdict, found = judged(altered(path, tmp_path / "x.png", receipt={"steps_done": 3}), model)
    assert (verdict.state, verdict.fields) == ("different", ("steps_done",))
    assert "Altered since it was drawn: steps done." in words.verdict_html(verdict, found)


def test_stop_and_the_deadline_reach_a_verification(model, drawn):
    found, stop = Desk({"tiny": model}).read(drawn, "tiny"), threading.Event()
    assert desk.verify(found, model, str(drawn), None, desk.watch(stop, 60)).state == "identical"
    with pytest.raises(text_to_image.ReceiptError, match=r"out of time \(0 s\) after 1 of 4 steps"):
        desk.verify(found, model, str(drawn), None, desk.watch(stop, 0))
    stop.set()
    with pytest.raises(text_to_image.ReceiptError, match="stopped after 1 of 4 steps"):
        desk.verify(found, model, str(drawn), None, desk.watch(stop, 60))


def test_a_picture_drawn_from_another_wants_that_one(model, drawn, tmp_path):
    start = tmp_path / "start.png"
    Image.new("RGB", (40, 20), (200, 30, 30)).save(start)
    path = save(desk.check_order(model, **(GOOD | {"picture": str(start), "strength": 0.5})), tmp_path / "from.png")
    with pytest.raises(text_to_image.ReceiptError, match="drawn from another"):
        judged(path, model)
    assert judged(path, model, str(start))[0].state == "identical"
    assert "image_sha256" in judged(path, model, str(drawn))[0].fields
    assert any("start picture" in problem for problem in Desk({"tiny": model}).read(path, "tiny").problems)


def test_other_programs_text_restores_and_verifies_too(model, drawn, tmp_path):
    text = pictures.read_png_text(drawn)["parameters"]
    verdict, found = judged(altered(drawn, tmp_path / "a.png", text={"parameters": text}), model)
    assert verdict.state == "identical" and verdict.fields == () and found.settings["seed"] == 3
    theirs = "a cat\nNegative prompt: dog\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 5, Size: 512x512, "
    theirs += "Model hash: abcdef0123"
    found = Desk({"tiny": model}).read(altered(drawn, tmp_path / "b.png", text={"parameters": theirs}), "tiny")
    assert found.settings["prompt"] == "a cat" and found.settings["num_inference_steps"] == 20 and not found.here
    said = " ".join(found.problems)
    assert "does not say sampler" in said and "abcdef0123" in said and "not loaded here" in said
    with pytest.raises(text_to_image.ReceiptError, match="not loaded here"):
        desk.verify(found, model, str(tmp_path / "b.png"), None)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ({}, "carries no receipt"),
        ({"vitrail": "{"}, "broken"),
        ({"vitrail": "[" * 10**5}, "broken"),
        ({"vitrail": "[1]"}, "no object"),
        ({"vitrail": '{"labels": ["food"], "seeds": ["1"]}'}, "prompt or seed is missing"),  # of another page
        ({"parameters": "hello"}, "no line of settings"),
    ],
)
def test_no_or_a_broken_receipt_is_said_in_words(model, drawn, tmp_path, text, words):
    with pytest.raises(text_to_image.ReceiptError, match=words):
        Desk({"tiny": model}).read(altered(drawn, tmp_path / "x.png", text=text), "tiny")


@pytest.mark.parametrize(
    "change",
    [
        {"seed": "x"},
        {"seed": None},
        {"num_inference_steps": 10**9},
        {"guidance_scale": "2"},
        {"sampler": ["ddim"]},
        {"prompt": "x" * 3000},
        {"negative_prompt": 5},
        {"strength": "much"},
        {"seed": float("inf")},
        {"guidance_scale": 10**400},
    ],
)
def test_a_receipt_with_nonsense_in_a_field_restores_the_rest(model, drawn, tmp_path, change):
    path = altered(drawn, tmp_path / "x.png", receipt=change)
    found = Desk({"tiny": model}).read(path, "tiny")
    [(name, _)] = change.items()
    assert name not in found.settings and len(found.settings) >= 5 and found.problems
    with pytest.raises(text_to_image.ReceiptError):
        desk.verify(found, model, str(path), None)


@pytest.mark.parametrize("size", [5, None, {}, [1, 2]])
def test_a_receipt_of_another_size_is_named(model, drawn, tmp_path, size):
    verdict, _ = judged(altered(drawn, tmp_path / "x.png", receipt={"size": size}), model)
    assert verdict.state == "identical" and "size" in verdict.fields
