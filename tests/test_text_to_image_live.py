"""Sketches while one types, and the switch between a student and its teacher: in a real browser, and without one."""

import json
import threading
import time

import pytest
import tiny_models
from test_text_to_image_app import SHEET, STATUS, wait_for_text

from apps import text_to_image as app
from apps.kit import values
from apps.kit.session import Newest
from apps.text_to_image import desk, live
from hub_models import text_to_image
from training.text_to_image import few_steps

TYPED = "#text-to-image-prompt textarea, #text-to-image-prompt input"
IMAGE = "document.querySelector('#text-to-image-sheet img')?.src"
V = {"prediction_type": "v_prediction", "beta_schedule": "squaredcos_cap_v2"}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A teacher, and what is its student before it has learned anything."""
    extra = {"styles": ["noto"], "default_steps": 6, "guidance_scale": 2.0}
    home = tmp_path_factory.mktemp("models")
    teacher = text_to_image.load(
        str(tiny_models.stable_diffusion(home / "teacher", text="bert", extra=extra, **V)), device="cpu"
    )
    student = few_steps.student_of(teacher)
    text_to_image.save_folder(home / "student", student.pipe, **student.extra)
    return {"tiny": teacher, "tiny-few": text_to_image.load(str(home / "student"), device="cpu")}


@pytest.fixture
def office(models):
    return desk.Desk(models)


# ---- in a browser ----------------------------------------------------------------------------------------------------


def shown_after(page, before: str) -> str:
    """The first picture of the sheet, once it is another one."""
    page.wait_for_function(f"was => {IMAGE} && {IMAGE} !== was", arg=before)
    return page.evaluate(IMAGE)


def test_what_is_typed_is_sketched_and_then_drawn_by_either(serve, page, models):
    page.goto(serve(app.build(models)))
    wait_for_text(page, STATUS, "An example")
    prompt, first = page.locator(TYPED), page.evaluate(IMAGE)
    prompt.press_sequentially("a red", delay=10)
    red = shown_after(page, first)
    wait_for_text(page, STATUS, "Sketched while you type, in 2 steps")
    assert page.locator("[data-start]").count() == 0 and page.locator("[data-save]").count() == 1
    prompt.press_sequentially(" house", delay=10)
    house = shown_after(page, red)
    assert page.get_by_role("radio", name="teacher, 6 steps").is_checked()

    prompt.press("Enter")
    assert "Done: 6 steps" in wait_for_text(page, STATUS, "Done")
    drawn = page.evaluate(IMAGE)
    assert drawn != house and page.locator("[data-start]").count() == 4
    page.get_by_role("radio", name="student, 4 steps").check()
    wait_for_text(page, STATUS, "By the student, in 4 steps, from the same noise")
    other = page.evaluate(IMAGE)
    assert other != drawn and page.locator("[data-save]").count() == 4
    seeds = page.locator(f"{SHEET} figcaption span").all_inner_texts()
    page.get_by_role("radio", name="teacher, 6 steps").check()
    wait_for_text(page, STATUS, "By the teacher, in 6 steps")
    assert page.evaluate(IMAGE) == drawn
    assert page.locator(f"{SHEET} figcaption span").all_inner_texts() == seeds

    page.get_by_label("Sketch while I type").uncheck()
    prompt.press_sequentially("s", delay=10)
    wait_for_text(page, "#text-to-image-sent", "a red houses")
    page.wait_for_timeout(800)
    assert page.evaluate(IMAGE) == drawn, "nothing is sketched"


def test_the_last_of_many_keys_is_what_is_sketched(serve, page, models):
    """Of those that come while a sketch is under way the last alone is drawn; none is lost, and none comes late."""
    slowed = models["tiny-few"].pipe.unet.register_forward_pre_hook(lambda *_: time.sleep(0.15))
    try:
        page.goto(serve(app.build(models)))
        wait_for_text(page, STATUS, "An example")
        page.locator(TYPED).press_sequentially("a dog with a hat", delay=90)
        page.wait_for_function(
            "() => document.querySelector('#text-to-image-sheet img')?.alt.includes(': a dog with a hat, seed 0')"
        )
        page.wait_for_timeout(1000)
        assert "a dog with a hat" in page.locator(f"{SHEET} img").first.get_attribute("alt")
    finally:
        slowed.remove()


def test_without_a_student_there_is_nothing_to_sketch(serve, page, models):
    page.goto(serve(app.build({"tiny": models["tiny"]})))
    wait_for_text(page, STATUS, "An example")
    first = page.evaluate(IMAGE)
    assert not page.locator("#text-to-image-live").count() and not page.locator("#text-to-image-by").count()
    page.locator(TYPED).press_sequentially("a dog", delay=10)
    wait_for_text(page, "#text-to-image-sent", "a dog")
    page.wait_for_timeout(500)
    assert page.evaluate(IMAGE) == first


# ---- without one -----------------------------------------------------------------------------------------------------


def test_a_later_key_ends_the_sketch_before(office, models):
    sketches, unet = live.Sketches(office, models["tiny-few"]), models["tiny-few"].pipe.unet
    seen, asked = [], ("tiny", "a dog", "any style", "3", 2.0)

    def later(*_):
        seen.append(1)
        sketches.newest.note("me", 2.0)

    hook = unet.register_forward_pre_hook(later)
    try:
        assert sketches.sketch("me", 1.0, *asked) is None and len(seen) == 1, "after one step"
        assert sketches.sketch("you", 1.0, *asked) and len(seen) == 3, "its own keys"
        assert sketches.sketch("me", 1.5, *asked) is None and len(seen) == 3, "it comes late"
        assert sketches.sketch("me", 2.0, *asked) is not None, "the newest itself"
    finally:
        hook.remove()


def test_a_sketch_makes_room_for_what_was_ordered(office, models):
    """No sketch while its visitor's drawing is under way; and the two lanes are not one."""
    sketches = live.Sketches(office, models["tiny-few"])
    office.drawing.arm("me")
    assert sketches.sketch("me", 1.0, "tiny", "a dog", "any style", "3", 2.0) is None
    office.drawing.drop("me")
    of_student, _ = sketches.sketch("me", 1.5, "tiny-few", "a dog", "noto", "3", 2.0)
    assert of_student.settings["guidance_scale"] == 2.0, "what is asked of the student itself stays"
    order, pngs = sketches.sketch("me", 2.0, "tiny", "a dog", "noto", "3", 20.0)
    assert order.prompt == "a dog, noto style" and order.settings["guidance_scale"] == 8.0 and len(pngs) == 1
    demo = app.build(models)
    lanes = {fn.concurrency_id for fn in demo.fns.values()}
    assert {"live", "draw", "look"} <= lanes


def test_nothing_typed_is_nothing_sketched(office, models):
    sketches = live.Sketches(office, models["tiny-few"])
    assert sketches.sketch("me", 1.0, "tiny", "  ", "any style", "3", 2.0) is None
    with pytest.raises(values.InputError, match="Prompt has"):
        sketches.sketch("me", 2.0, "tiny", "x" * 3000, "any style", "3", 2.0)
    with pytest.raises(values.InputError, match="Seed"):
        sketches.sketch("me", 3.0, "tiny", "a dog", "any style", "?", 2.0)


def test_the_newest_is_known_across_threads():
    newest = Newest()
    threads = [threading.Thread(target=newest.note, args=("me", stamp)) for stamp in (5.0, 9.0, 7.0)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert newest.overtaken("me", 8.0).is_set() and not newest.overtaken("me", 9.0).is_set()
    assert not newest.overtaken("you", 0.0).is_set()


def test_a_drawing_by_the_other_is_from_the_same_noise(office, models):
    order = office.order("tiny", "a red apple", "", 2, "7", 6, 2.0, "DDIM", None, None)
    *_, step = order.steps()
    from gradio import processing_utils

    sheet = desk.Sheet([processing_utils.encode_pil_to_bytes(png) for png in order.pngs(step)], None)
    same, ours = office.drawn_by(models["tiny"], sheet)
    assert ours and same.seeds == [7, 8]
    other, ours = office.drawn_by(models["tiny-few"], sheet)
    assert not ours and other.seeds == [7, 8] and other.prompt == "a red apple"
    assert (other.settings["sampler"], other.settings["num_inference_steps"]) == ("lcm", 4)
    assert other.settings["guidance_scale"] == models["tiny-few"].default_guidance, "as that of the teacher's was"
    assert desk.guidance_for(models["tiny-few"], 5.0, models["tiny"]) == 5.0
    assert desk.guidance_for(models["tiny-few"], 20.0, models["tiny"]) == 8.0
    *_, step = other.steps()
    receipt = json.loads(other.pngs(step)[1].info["vitrail"])
    assert receipt["seed"] == "8" and receipt["weights_sha256"] == models["tiny-few"].weights_sha256


def test_fields_are_those_of_the_model(models):
    own = desk.own_settings(models["tiny-few"], {})
    assert own["sampler"] == {"choices": ["LCM"], "value": "LCM"}
    assert own["steps"]["maximum"] == 8 and own["guidance"]["maximum"] == 8.0
    assert "LCM" not in desk.own_settings(models["tiny"], {})["sampler"]["choices"]
    with pytest.raises(values.InputError, match="Sampler must be one of: LCM"):
        desk.check_order(models["tiny-few"], "a dog", "", 1, "3", 4, 2.0, "DDIM", None, None)
    assert any("negative" in said for said in desk.notices(models["tiny-few"], "a dog", "a cat"))
