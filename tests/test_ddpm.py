"""The page `ddpm`: in a real browser, through the API, and with nothing to serve."""

import base64
import functools
import io
import json
import re
import threading
import time

import numpy as np
import pytest
import tiny_models
import torch
from diffusers import DDPMScheduler
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image, ImageSequence

from apps import ddpm as app
from apps.ddpm import desk, words
from apps.kit import films, pictures, session, values
from hub_models import ddpm, store

LABELS = ("face", "food", "<b>flag</b>")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    unet = tiny_models.unet(classes=4)
    scheduler = DDPMScheduler(num_train_timesteps=300, prediction_type="v_prediction", timestep_spacing="trailing")
    return ddpm.DDPM(
        unet, scheduler, label_names=LABELS, null_label=3, guidance_scale=2.0, name="tiny", weights_sha256="0" * 64
    )


def set_number(page, label, value):
    box = page.get_by_label(f"number input for {label}")
    box.fill(str(value))
    box.press("Tab")


def sources(page, where):
    return page.eval_on_selector_all(f"{where} img", "all => all.map((image) => image.src)")


def wait_for_status(page, pattern):
    page.wait_for_function(
        "pattern => new RegExp(pattern).test(document.querySelector('#ddpm-status').innerText)", arg=pattern
    )
    return page.inner_text("#ddpm-status")


# Collects every distinct first picture that the sheet shows from now on.
WATCH = """() => {
  window.seen = [];
  new MutationObserver(() => {
    const image = document.querySelector('#ddpm-sheet img');
    if (image && !window.seen.includes(image.src)) window.seen.push(image.src);
  }).observe(document.querySelector('#ddpm-sheet'), { childList: true, subtree: true, attributes: true });
}"""


def test_draw_watch_stop_and_scrub_in_a_browser(serve, page, model, tmp_path):
    page.set_default_timeout(60_000)
    slowed = model.unet.register_forward_pre_hook(lambda *_: time.sleep(0.02))  # as slow as a model worth watching
    page.goto(serve(app.build({"tiny": model})))
    page.get_by_label("food").check()
    set_number(page, "Pictures", 2)
    set_number(page, "Steps", 30)

    page.evaluate(WATCH)
    page.get_by_role("button", name="Draw", exact=True).click()
    assert re.search(r"Done: 30 steps", wait_for_status(page, "Done: 30 steps"))  # not the drawing that it opened with
    page.wait_for_selector(".tile:not([disabled])")
    assert len(page.evaluate("window.seen")) >= 4, "three intermediate pictures and the last"
    assert page.eval_on_selector_all(".tile b", "all => all.map(b => b.innerText)") == ["face", "food"]
    seed = page.input_value("#ddpm-seed input")
    assert seed in page.inner_text("#ddpm-status")

    page.wait_for_selector("#ddpm-film img")
    films = [sources(page, "#ddpm-film")]
    assert len(films[0]) == 2 and "after 30 of 30" in page.inner_text("#ddpm-film")
    for frame in (18, 5):
        page.locator("#ddpm-frame input[type=range]").fill(str(frame))
        page.wait_for_function("old => document.querySelector('#ddpm-film img').src !== old", arg=films[-1][0])
        films.append(sources(page, "#ddpm-film"))
    assert len({film[0] for film in films}) == 3 and len({film[1] for film in films}) == 3
    assert len(films[1]) == 3 and "predicted noise" in page.inner_text("#ddpm-film")

    page.locator(".tile").nth(1).press("Enter")  # the keyboard chooses another picture
    page.wait_for_function("old => document.querySelector('#ddpm-film img').src !== old", arg=films[-1][0])
    assert page.locator(".tile").nth(1).get_attribute("aria-pressed") == "true"
    with page.expect_download() as download:
        page.get_by_text("Download GIF").click()
    download.value.save_as(tmp_path / "film.gif")
    with Image.open(tmp_path / "film.gif") as gif:
        assert gif.format == "GIF" and gif.n_frames == 31
    with page.expect_download() as download:
        page.get_by_text("Download PNG").click()
    download.value.save_as(tmp_path / "sheet.png")
    receipt = json.loads(pictures.read_png_text(tmp_path / "sheet.png")[ddpm.RECEIPT_KEY])
    assert receipt["labels"] == ["face", "food"] and receipt["seeds"][0] == seed
    assert receipt["num_inference_steps"] == 30 and receipt["sampler"] == "dpm++"

    set_number(page, "Pictures", 16)
    set_number(page, "Steps", 250)
    page.get_by_role("button", name="Draw", exact=True).click()
    wait_for_status(page, "^Step")
    page.get_by_role("button", name="Stop").click()
    done = int(re.search(r"Stopped after (\d+) of 250 steps", wait_for_status(page, "Stopped"))[1])
    assert 1 <= done < 250
    page.wait_for_function("() => !document.querySelector('#ddpm-film').innerText.includes('30 of 30')")
    page.wait_for_selector("button:not([disabled]) >> text=/^Draw$/")

    slowed.remove()

    page.locator("#ddpm-seed input").fill("1.5")  # an error is said, and the page is ready again
    page.get_by_label("New seed every time").uncheck()
    page.get_by_role("button", name="Draw", exact=True).click()
    page.get_by_text("Seed must be a whole number").wait_for()
    wait_for_status(page, "Not drawn")
    page.wait_for_selector("button:not([disabled]) >> text=/^Draw$/")

    page.get_by_role("tab", name="Into the noise").click()
    page.get_by_role("button", name="Take the first picture drawn").click()
    page.wait_for_selector("#ddpm-noisy img")
    before = sources(page, "#ddpm-noisy")
    set_number(page, "t", 290)
    page.wait_for_function("old => document.querySelector('#ddpm-noisy img').src !== old", arg=before[0])


def test_who_draws_before_the_opening_drawing_is_done_keeps_his(serve, page, model):
    page.set_default_timeout(60_000)
    gate, answered, demo = threading.Event(), threading.Event(), app.build({"tiny": model})
    [opening] = [one for one in demo.fns.values() if getattr(one.fn, "__qualname__", "") == "opened.<locals>.show"]
    show = opening.fn

    @functools.wraps(show)
    def said(*arguments):
        try:
            return show(*arguments)
        finally:
            answered.set()

    opening.fn = said

    def hold(_, arguments):
        if arguments[0].shape[0] > 2:  # the opening drawing is of all classes, a visitor's of one
            gate.wait(60)

    held = model.unet.register_forward_pre_hook(hold)
    page.goto(serve(demo))
    set_number(page, "Pictures", 1)
    set_number(page, "Steps", 2)
    page.get_by_role("button", name="Draw", exact=True).click()
    wait_for_status(page, "Done: 2 steps")
    page.wait_for_selector(".tile:not([disabled])")
    mine = sources(page, "#ddpm-sheet")
    assert not answered.is_set()
    gate.set()
    waiting = time.monotonic() + 60
    while not answered.is_set() and time.monotonic() < waiting:
        page.wait_for_timeout(100)  # the browser's requests go through this thread, too
    assert answered.is_set()
    page.get_by_role("tab", name="Into the noise").click()  # its answer comes after that one's
    page.get_by_role("button", name="Take the first picture drawn").click()
    page.wait_for_selector("#ddpm-noisy img")
    held.remove()
    assert "Done: 2 steps" in page.inner_text("#ddpm-status") and sources(page, "#ddpm-sheet") == mine


def pixels_of(urls):
    """The pictures of data URLs, int (N, H, W, 3)."""
    files = [io.BytesIO(base64.b64decode(url.partition(",")[2])) for url in urls]
    return np.stack([np.asarray(Image.open(file).convert("RGB")).astype(int) for file in files])


def test_a_film_forks_at_a_frame_and_both_go_on_side_by_side(serve, page, model, tmp_path):
    page.set_default_timeout(60_000)
    page.goto(serve(app.build({"tiny": model})))
    set_number(page, "Pictures", 2)
    set_number(page, "Steps", 12)
    page.get_by_role("button", name="Draw", exact=True).click()
    wait_for_status(page, "Done: 12 steps")
    page.wait_for_selector("#ddpm-film img")
    page.get_by_role("button", name="Fork at this frame").click()
    page.get_by_text("That is the end of the film").wait_for()

    def to_frame(number, *where):
        page.locator("#ddpm-frame input[type=range]").fill(str(number))
        for part in where:
            page.wait_for_function(
                "([part, said]) => document.querySelector(part).innerText.includes(said)",
                arg=[part, f"after {number} of 12 steps"],
            )

    to_frame(5, "#ddpm-film")
    page.locator("#ddpm-fork-sampler").get_by_text("DDPM", exact=True).click()
    page.get_by_role("button", name="Fork at this frame").click()
    page.wait_for_selector("#ddpm-fork img")
    assert "after 5 of 12 steps" in page.inner_text("#ddpm-fork-line")
    page.wait_for_function("() => document.querySelector('#ddpm-fork').innerText.includes('12 of 12')")
    assert sources(page, "#ddpm-film") != sources(page, "#ddpm-fork")
    for number in (5, 3, 0, 8):
        to_frame(number, "#ddpm-film", "#ddpm-fork")
        film, fork = (pixels_of(sources(page, where)) for where in ("#ddpm-film", "#ddpm-fork"))
        apart = np.abs(film - fork).mean((1, 2, 3))  # (3,): of x_t, guess and noise; the fork is drawn alone
        assert (apart[0] < 1) == (number <= 5) and (apart[1:] < 1).all() == (number < 5), (number, apart)
    with page.expect_download() as download:
        page.get_by_text("Download GIF of both").click()
    download.value.save_as(tmp_path / "both.gif")
    with Image.open(tmp_path / "both.gif") as gif:
        assert gif.height == 2 * (gif.width - 8) // 2 + 8 and gif.n_frames == 13

    page.locator(".tile").nth(1).click()  # another picture has no fork yet
    page.wait_for_function("() => !document.querySelector('#ddpm-fork img')")


def test_closing_the_tab_stops_the_drawing(serve, page, model):
    evaluations = []

    def count(*_):
        time.sleep(0.05)
        evaluations.append(1)

    counted = model.unet.register_forward_pre_hook(count)
    page.goto(serve(app.build({"tiny": model})))
    set_number(page, "Pictures", 1)
    set_number(page, "Steps", 250)
    page.get_by_role("button", name="Draw", exact=True).click()
    wait_for_status(page, "^Step")
    page.goto("about:blank")
    time.sleep(2)
    left = len(evaluations)
    time.sleep(1)
    counted.remove()
    assert len(evaluations) == left < 250


def test_the_flag_stops_a_drawing_after_the_step_it_is_raised_in(model):
    order = desk.check_order(model, ["food"], 2, 1, 100, 2.0, "DPM-Solver++")
    flag, done = session.StopFlags().arm("session"), 0
    for step in session.until(order.steps(), flag, 60):
        done += 1
        if step.index == 6:
            flag.set()
    assert done == 7


def test_a_drawing_past_its_deadline_ends(model):
    order = desk.check_order(model, [], 1, 1, 100, 2.0, "DDIM")
    assert len(list(session.until(order.steps(), session.StopFlags().arm(None), 0))) == 1


def test_the_film_pairs_each_noisy_picture_with_the_guess_made_from_it(model):
    order = desk.check_order(model, ["food"], 2, 1, 100, 2.0, "DDIM")
    recorder = desk.Recorder(order)
    steps = list(recorder.steps())
    film = recorder.film()
    assert film.noisy.shape == film.guess.shape == (films.FRAMES, 2, 16, 16, 3) and film.noisy.dtype == np.uint8
    assert film.steps[0] == 0 and film.steps[-1] == 100 and film.steps == sorted(set(film.steps))
    for frame in (1, 30, 59):
        done = film.steps[frame]
        assert np.array_equal(film.noisy[frame], ddpm.to_uint8(steps[done - 1].x_t))
        assert np.array_equal(film.guess[frame], ddpm.to_uint8(steps[done].x0)) and film.timesteps[frame] == (
            steps[done].timestep
        )
    assert np.array_equal(film.noisy[-1], ddpm.to_uint8(steps[-1].x_t))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"count": 17}, "1 to 16"),
        ({"count": True}, "1 to 16"),
        ({"steps": 0}, "1 to 250"),
        ({"steps": -3}, "1 to 250"),
        ({"steps": 2.5}, "1 to 250"),
        ({"steps": 1e6}, "1 to 250"),
        ({"steps": float("nan")}, "1 to 250"),
        ({"steps": float("inf")}, "1 to 250"),
        ({"steps": "12"}, "1 to 250"),
        ({"guidance": float("nan")}, "1 to 10"),
        ({"guidance": 1e9}, "1 to 10"),
        ({"sampler": "euler"}, "DDIM, DDPM"),
        ({"sampler": None}, "DDIM, DDPM"),
        ({"labels": ["moon"]}, "any, face, food"),
        ({"labels": [7]}, "any, face, food"),
        ({"labels": {"a": 1}}, "any, face, food"),
        ({"seed": 1.5}, "whole number"),
        ({"seed": "x"}, "whole number"),
    ],
)
def test_a_parameter_out_of_its_range_is_an_error_that_names_the_range(model, change, words):
    good = {"labels": ["food"], "count": 1, "seed": 0, "steps": 2, "guidance": 1.0, "sampler": "DDIM"}
    desk.check_order(model, **good)
    with pytest.raises(values.InputError, match=words):
        desk.check_order(model, **(good | change))


def test_the_api_draws_again_from_its_receipt_and_refuses_what_is_out_of_range(serve, model, tmp_path):
    client = Client(serve(app.build({"tiny": model})), verbose=False, download_files=str(tmp_path))
    endpoints = client.view_api(return_format="dict")["named_endpoints"]
    names = "draw", "field", "film", "fork", "forward", "scales", "two_films"
    assert set(endpoints) == {f"/ddpm_{name}" for name in names}
    for endpoint in endpoints.values():
        assert endpoint["description"] and all(parameter["label"] for parameter in endpoint["parameters"])

    order = {"labels": ["food", "any"], "count": 2, "steps": 3, "guidance": 2, "sampler": "DDPM"}
    gallery, receipt = client.predict(seed=2**70 + 5, api_name="/ddpm_draw", **order)
    assert receipt["seeds"] == ["5", "6"] and receipt["labels"] == ["food", "any"]
    first = Image.open(gallery[0]["image"])
    assert first.size == (16, 16) and json.loads(first.text[ddpm.RECEIPT_KEY])["seeds"] == ["5"]
    assert first.text["parameters"].startswith("food\nSteps: 3, Sampler: ddpm, CFG scale: 2, Seed: 5,")
    again, _ = client.predict(seed=int(receipt["seeds"][0]), api_name="/ddpm_draw", **order)
    assert np.array_equal(np.asarray(first), np.asarray(Image.open(again[0]["image"])))
    (*_, step) = model.generate(["food"], [5], num_inference_steps=3, guidance_scale=2.0, sampler="ddpm")
    assert np.abs(np.asarray(first).astype(int) - ddpm.to_uint8(step.x_t)[0]).max() <= 1

    for change in ({"steps": 1000}, {"steps": 2.5}, {"guidance": 1e9}, {"sampler": "euler"}, {"labels": ["moon"]}):
        with pytest.raises(AppError):
            client.predict(seed=0, api_name="/ddpm_draw", **(order | change))
    with pytest.raises(AppError, match="whole number from 1 to 250"):
        client.predict(seed=0, api_name="/ddpm_draw", **(order | {"steps": 2.5}))
    with pytest.raises((AppError, ValueError)):
        client.predict(seed=0, api_name="/ddpm_draw", **(order | {"guidance": float("nan")}))

    gif, _ = client.predict(label="food", seed=1, steps=5, guidance=1, sampler="DDIM", api_name="/ddpm_film")
    assert Image.open(gif).format == "GIF"
    asked = {"label": "food", "seed": 1, "steps": 5, "guidance": 1, "sampler": "DDIM"}
    changed = {"after": 2, "new_label": "any", "new_guidance": 2, "new_sampler": "DDPM"}
    gif, receipt = client.predict(**asked, **changed, api_name="/ddpm_fork")
    assert receipt["fork"] == {"at": 2, "labels": ["any"], "guidance_scale": 2, "sampler": "ddpm", "guide_scale": 0.0}
    frames = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(Image.open(gif))]
    same = [np.abs(frame[:160, :160].astype(int) - frame[168:, :160]).mean() < 1 for frame in frames]  # of x_t
    assert len(frames) == 6 and same == [True, True, True, False, False, False]
    with pytest.raises(AppError, match="Steps before the fork must be a whole number from 0 to 4"):
        client.predict(**asked, **(changed | {"after": 5}), api_name="/ddpm_fork")
    Image.new("RGB", (40, 30), "red").save(tmp_path / "red.png")
    noisy, guess = client.predict(
        picture=handle_file(str(tmp_path / "red.png")), t=100, seed=3, label="any", api_name="/ddpm_forward"
    )
    assert Image.open(noisy).size == Image.open(guess).size == (16, 16)
    with pytest.raises(AppError, match="PNG, JPEG"):
        (tmp_path / "bad.png").write_bytes(b"<html>")
        client.predict(
            picture=handle_file(str(tmp_path / "bad.png")), t=1, seed=3, label="any", api_name="/ddpm_forward"
        )


def test_a_model_that_cannot_be_loaded_leaves_a_page_that_names_the_cause(serve, page, model, tmp_path):
    (tmp_path / "model_index.json").write_text("<html>")
    models = app.load_models([str(tmp_path), "moon-64", "classifier=none", "guide=none"])
    assert all(isinstance(error, store.CheckpointError) for error in models.values())
    page.goto(serve(app.build(models)))
    page.wait_for_selector("[role=alert]")
    text = page.inner_text("body")
    assert "moon-64" in text and str(tmp_path) in text and not page.query_selector("#ddpm-sheet")

    page.goto(serve(app.build(models | {"tiny": model})))
    page.wait_for_selector("#ddpm-sheet")
    assert "moon-64" in page.inner_text("[role=alert] >> nth=1") and page.query_selector("[role=alert]")


def test_labels_of_a_folder_are_text_in_the_page_and_never_markup():
    html = words.sheet_html(np.zeros((1, 16, 16, 3), np.uint8), [("<b>flag</b>", "1")], done=True)
    assert "<b>flag" not in html and "&lt;b&gt;flag&lt;/b&gt;" in html
