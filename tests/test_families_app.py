"""The page `families`: its desk, its endpoints, what was measured, and the whole story in a browser."""

import dataclasses
import json
import re
import threading
import time

import numpy as np
import pytest
import tiny_gallery
import torch
from conftest import serving
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from apps import families as app
from apps.families import measured, rows, words
from apps.families.desk import Desk
from apps.families.work import FADE, WALK, Member
from apps.kit import pictures, session, values
from hub_models import ddpm, drawing, store, textures
from hub_models.drawing import RECEIPT_KEY, altered_fields
from hub_models.pictures import to_uint8

NAMES = ["autoencoder=tiny", "gan=tiny", "tokens=tiny", "energy=tiny", "ddpm=tiny"]
TEXTURES = app.PAGE.folder / "textures"
RED = Image.new("RGB", (24, 18), "red")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return tiny_gallery.tiny_families(tmp_path_factory.mktemp("families"))


@pytest.fixture(scope="module")
def translators(tmp_path_factory):
    return tiny_gallery.tiny_translator(tmp_path_factory.mktemp("translators"))


@pytest.fixture(scope="module")
def desk(models):
    return Desk(models)


@pytest.fixture(scope="module")
def address(models, translators):
    with serving() as start:
        yield start(app.build(models | translators | {"gan=gone": store.CheckpointError("gone: train <b>it</b>")}))


def last(frames) -> np.ndarray:
    *_, frame = frames
    return frame.paint()


# ---- without a page --------------------------------------------------------------------------------------------------


def test_each_family_draws_what_its_contract_draws_alone(desk, models):
    order = desk.order("food", 2, 5, None)
    steps = list(order.steps())
    assert [step.index for step in steps] == list(range(steps[-1].total)), "every step of every family is counted once"
    drawn = {row.name: row for row in order.sheet().rows}
    assert list(drawn) == NAMES and order.seeds == [5, 6]
    labels, seeds = ["food", "food"], [5, 6]
    *_, draft = models["tokens=tiny"].sample(labels, seeds)
    *_, state = models["energy=tiny"].sample(labels, seeds)
    *_, step = models["ddpm=tiny"].generate(labels, seeds, num_inference_steps=20, guidance_scale=2, sampler="dpm++")
    alone = {
        "autoencoder=tiny": to_uint8(models["autoencoder=tiny"].sample(labels, seeds)),
        "gan=tiny": np.stack([np.asarray(picture) for picture in models["gan=tiny"].draw(labels, seeds)]),
        "tokens=tiny": models["tokens=tiny"].pictures(draft.symbols),
        "energy=tiny": to_uint8(state.x),
        "ddpm=tiny": to_uint8(step.x_t),
    }
    for name, row in drawn.items():
        assert np.array_equal(row.pixels, alone[name]), name
        assert row.done == row.total == rows.FAMILIES[name.split("=")[0]].passes(models[name]) and row.seconds > 0
        assert (
            row.receipt["seeds"] == ["5", "6"] and row.receipt["labels"] == labels and not altered_fields(row.receipt)
        )
        assert order.receipt(name, 1)["seeds"] == ["6"] and "steps_done" not in row.receipt
        assert str(row.total) in row.said or row.total == 1


def test_a_stopped_order_keeps_what_there_is_and_says_how_far_it_came(desk):
    order, flag = desk.order("face", 1, 0, None), session.StopFlags().arm("x")
    for step in session.until(order.steps(), flag, 60):
        if step.index == 6:  # of the 16 symbols, after two families of one pass
            flag.set()
    sheet = order.sheet()
    assert [row.done for row in sheet.rows] == [1, 1, 5, 0, 0] and sheet.rows[2].receipt["steps_done"] == 5
    shown = words.sheet_html(sheet, under_way=False)
    assert "5 of 16 steps" in shown and shown.count("Not begun.") == 2 and shown.count("<img") == 3


def test_a_family_that_knows_no_such_label_says_so_and_the_others_draw(models):
    models = models | {"gan=tiny": type(models["gan=tiny"])(models["gan=tiny"].model, name="tiny")}
    energy = models["energy=tiny"]
    other = type(energy)(energy.model, label_names=("moon", "<b>", "flag"), steps=2, name="tiny")
    desk = Desk(models | {"energy=tiny": other})
    order = desk.order("moon", 1, 0, None)
    assert [step.index for step in order.steps()][-1] + 1 == sum(part.total for part in order.parts)
    refusals = {row.name: row.refusal for row in order.sheet().rows}
    assert refusals.pop("energy=tiny") is None and all("It knows no “moon”" in said for said in refusals.values())
    seen = {member.name: (seen, refusal) for member, seen, refusal in desk.looks(RED, "any", 0, None)}
    assert seen["gan=tiny"] == (None, "Tiny comes without its discriminator: it draws, and can't tell.")
    assert "&lt;b&gt;" in words.answers_html({"x": ("<b>", "", None, None)}) and len(seen) == 5


def test_a_picture_is_seen_as_each_contract_sees_it(desk, models):
    seen = {member.family.stem: seen for member, seen, _ in desk.looks(RED, "food", 3, None)}
    vae, tokens, energy, noisy = (models[NAMES[k]] for k in (0, 2, 3, 4))
    assert np.array_equal(seen["autoencoder"].pictures[0][1], to_uint8(vae.decode(vae.encode([RED])[0]))[0])
    space = vae.space
    ways = dataclasses.replace(space, directions={"frown → <b>": torch.ones(space.means.shape[1])})
    seen_by_vae = next(rows.VAE.look(type(vae)(vae.vae, space=ways), RED, "food", 3))
    assert [name for name, _ in seen_by_vae.pictures] == ["decoded again", "frown → <b>"]
    *_, draft = tokens.complete(RED, ["food"], [3], keep_rows=2)
    assert np.array_equal(seen["tokens"].pictures[0][1], tokens.pictures(draft.symbols)[0])
    bits = tokens.bits_per_dimension([RED], ["food"]).item()
    assert seen["tokens"].facts["Bits per dimension"] == f"{bits:.2f}"
    assert seen["energy"].facts["Energy"] == f"{energy.energy([RED]).item():.2f}"
    assert seen["energy"].facts["Class"].split(",")[0] == energy.label_names[energy.outputs([RED]).argmax()]
    gan = models["gan=tiny"]
    beaten = (gan.tell(gan.draw(["food"] * 16, range(16)), ["food"] * 16) < gan.tell([RED], ["food"])).sum()
    assert seen["gan"].facts["More real than"].startswith(f"{beaten} of 16") and not seen["gan"].pictures
    (_, with_noise), (_, denoised) = seen["ddpm"].pictures
    t = int(seen["ddpm"].facts["Noise at"].removeprefix("t = "))
    assert t == 149 and np.array_equal(with_noise, np.asarray(noisy.forward_process(RED, t, 3)[0])), "half of 300"
    bar = noisy.scheduler.alphas_cumprod[t]
    x_t = bar.sqrt() * noisy.to_tensor(RED) + (1 - bar).sqrt() * noisy.initial_noise([3])
    how = {"num_inference_steps": 20, "guidance_scale": 2.0, "sampler": "dpm++"}
    *_, step = noisy.generate(["food"], [3], start=x_t, done=10, **how)
    assert np.array_equal(denoised, to_uint8(step.x_t)[0])


def test_walks_end_where_the_pictures_are(desk, models):
    blue = Image.new("RGB", (9, 9), "blue")
    walks = desk.walks("face", 3, 8, None, RED, blue)
    steps = list(walks.steps())
    strips = {(strip.name, strip.way): strip for strip in walks.strips()}
    assert [step.index + 1 for step in steps][-1] == steps[-1].total == 1 + 1 + 1 + 20
    by_seed = "“face”, seed 3 to 8"
    assert {key for key, strip in strips.items() if strip.pixels is not None} == {
        ("autoencoder=tiny", "between the pictures"), ("autoencoder=tiny", by_seed), ("gan=tiny", by_seed),
        ("ddpm=tiny", by_seed), (FADE, "between the pictures"),
    }  # fmt: skip
    assert all(strip.said for strip in strips.values()) and ("tokens=tiny", "") in strips
    order = desk.order("face", 1, 3, ["gan=tiny", "ddpm=tiny"])
    list(order.steps())
    for row in order.sheet().rows:
        strip = strips[row.name, by_seed].pixels
        assert len(strip) == WALK and np.abs(strip[0].astype(int) - row.pixels[0]).max() <= 1, row.name
        assert np.abs(strip[0].astype(int) - strip[-1]).mean() > 0
    vae = models["autoencoder=tiny"]
    ends = to_uint8(vae.decode(vae.encode([RED, blue])[0]))
    found = strips["autoencoder=tiny", "between the pictures"].pixels
    assert np.abs(found[[0, -1]].astype(int) - ends).max() <= 1
    fade = strips[FADE, "between the pictures"].pixels
    assert fade[0, 8, 8].tolist() == [255, 0, 0] and fade[3, 8, 8].tolist() == [128, 0, 128]
    assert fade[-1, 8, 8].tolist() == [0, 0, 255]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"label": "moon"}, "Label must be one of: face, food, flag"),
        ({"label": None}, "Label must be one of"),
        ({"count": 5}, "Pictures must be a whole number from 1 to 4"),
        ({"count": True}, "Pictures must"),
        ({"seed": 1.5}, "Seed must be a whole number"),
        ({"names": ["gan=other"]}, "Family must be one of: autoencoder=tiny"),
        ({"names": [["gan=tiny"]]}, "Family must be one of"),
        ({"names": []}, "Families must be a list"),
        ({"names": "gan=tiny"}, "Families must be a list"),
    ],
)
def test_what_cannot_be_drawn_is_a_sentence(desk, change, said):
    good = {"label": "food", "count": 1, "seed": 0, "names": None}
    desk.order(**good)
    with pytest.raises(values.InputError, match=re.escape(said)):
        desk.order(**(good | change))


def test_a_fresh_seed_is_one_for_all_pictures(desk):
    first, second = desk.order("food", 2, -1, None).seeds
    assert second == first + 1 and desk.order("food", 2, 2**63 - 1, None).seeds == [2**63 - 1, 0]


def test_the_table_has_what_the_files_beside_the_weights_say_and_nothing_else(models, tmp_path):
    shipped = store.bundled("ddpm")["emoji-32"]
    found = json.loads((shipped / "results.json").read_text())["metrics"]
    member = Member("ddpm=emoji-32", rows.DDPM, ddpm.DDPM(models["ddpm=tiny"].unet, models["ddpm=tiny"].scheduler,
                                                           name="emoji-32"))  # fmt: skip
    row = measured.row(member)
    assert {row[name] for name in measured.FIGURES if name in found} == {found[name] for name in measured.FIGURES
                                                                        if name in found}  # fmt: skip
    assert [name for name in measured.FIGURES if row[name] is None] == [n for n in measured.FIGURES if n not in found]
    assert row["hours"] == pytest.approx(json.loads((shipped / "run.json").read_text())["hours"])
    shown = words.table_html([row])
    assert f"{found['label_accuracy']:.0%}" in shown and f"KID {found['kid_x1000']:.1f}" in shown
    folder = tmp_path / "export"
    folder.mkdir()
    tiny_gallery.tiny_models.gan_folder(folder)
    odd = {"recall": "much", "precision": 0.25, "kid_x1000": None, "label_accuracy": True, "kid_x1000_low": 10**400}
    (folder / "results.json").write_text(json.dumps({"metrics": odd}))
    (folder / "run.json").write_text(json.dumps({"hours": 0.5, "earlier": [{"hours": 1}, {"hours": "x"}, 7]}))
    model = rows.GAN.load(str(folder))
    row = measured.row(Member(f"gan={folder}", rows.GAN, model))
    assert row["precision"] == 0.25 and row["hours"] == 1.5 and row["parameters"] == model.parameters
    assert all(row[name] is None for name in measured.FIGURES if name != "precision")
    assert words.table_html([row]).count(words.UNKNOWN) == 4, "seconds, KID, recall, label accuracy; 25 % and 1.5 h"
    for text in ("[]", "{", '{"metrics": 3}'):
        (folder / "results.json").write_text(text)
        assert measured.row(Member("gan=x", rows.GAN, model))["precision"] is None


def test_models_are_named_by_their_stems():
    for wrong in ("emoji-32", "gan=", "moon=x", "=x"):
        with pytest.raises(SystemExit, match="STEM=MODEL, where STEM is one of autoencoder, gan"):
            app.load_models([wrong])
    found = app.load_models(["gan=no-such", "ddpm=emoji-32"])
    assert isinstance(found["gan=no-such"], store.CheckpointError) and found["ddpm=emoji-32"].name == "emoji-32"
    assert set(app.load_models(app.PAGE.models)) == set(app.PAGE.models), "whether their weights are here or not"


def test_only_tabs_that_there_are_models_for(translators):
    def endpoints(models) -> set[str]:
        return {fn.api_name for fn in app.build(models).fns.values() if str(fn.api_name).startswith("families_")}

    assert endpoints(translators) == {"families_styles", "families_texture"}
    assert not endpoints({name: store.CheckpointError("gone") for name in translators})


# ---- for programs ----------------------------------------------------------------------------------------------------


def test_the_api_draws_looks_walks_translates_and_compares(address, models, translators, tmp_path):
    client = Client(address, verbose=False, download_files=str(tmp_path))
    endpoints = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert set(endpoints) == {
        f"/families_{name}" for name in ("draw", "picture", "between", "styles", "table", "texture")
    }
    drawn, said = client.predict(label="food", count=1, seed=2**63 + 7, families=NAMES[:3], api_name="/families_draw")
    assert list(said) == NAMES[:3] and [row["caption"] for row in drawn] == [f"{name}, 7" for name in NAMES[:3]]
    with Image.open(drawn[1]["image"]) as picture:
        assert (
            json.loads(picture.text[RECEIPT_KEY]) == drawing.read_receipt(picture.text) == said["gan=tiny"]["receipt"]
        )
        assert np.array_equal(np.asarray(picture), np.asarray(models["gan=tiny"].draw(["food"], [7])[0]))
    RED.save(tmp_path / "red.png")
    red = handle_file(str(tmp_path / "red.png"))
    shown, said = client.predict(picture=red, label="any", seed=0, families=NAMES, api_name="/families_picture")
    assert len(shown) == 5 and said["gan=tiny"]["facts"]["Most real as"] in models["gan=tiny"].label_names
    strips, said = client.predict(
        label="flag", seed=0, other_seed=1, families=NAMES[:3], first=None, second=None, api_name="/families_between"
    )
    with Image.open(strips[0]["image"]) as strip:
        assert strip.size == (7 * 128, 128) and len(strips) == 2
    assert [row["family"] for row in said] == NAMES[:3] and "Symbols are whole things" in said[2]["space"]
    drawn, said = client.predict(picture=red, model="translation=tiny", api_name="/families_styles")
    assert [row["caption"] for row in drawn] == said["styles"] == ["noto", "<b>"]
    with Image.open(drawn[1]["image"]) as picture:
        alone = translators["translation=tiny"].translate([RED], ["<b>"])[0]
        # beside others a picture is rounded another way
        np.testing.assert_allclose(np.asarray(picture, int), np.asarray(alone, int), atol=1)
    table = client.predict(families=NAMES[3:], api_name="/families_table")
    assert [row["family"] for row in table] == NAMES[3:] and table[0]["likelihood"] == "up to a constant"
    fur = TEXTURES / "fur.jpg"
    made = client.predict(picture=handle_file(str(fur)), side=64, seed=3, iterations=2, api_name="/families_texture")
    with Image.open(fur) as piece, Image.open(made) as made:
        *_, state = textures.synthesise(piece, 64, 3, iterations=2)
        assert np.array_equal(np.asarray(made), np.asarray(state.picture))
    (tmp_path / "bad.png").write_bytes(b"<html>")
    bad = handle_file(str(tmp_path / "bad.png"))
    for endpoint, words_said, sent in (
        ("draw", "Label must be one of", {"label": 7}),
        ("draw", "Seed must be a whole number", {"seed": "x"}),
        ("draw", "Families must be a list", {"families": 3}),
        ("picture", "not a readable image", {"picture": bad}),
        ("picture", "Label must be one of: any, face", {"picture": red, "label": "moon"}),
        ("between", "not a readable image", {"first": bad, "second": None}),
        ("between", "Seed must", {"other_seed": 0.5, "first": None, "second": None}),
        ("styles", "not a readable image", {"picture": bad}),
        ("styles", "Model must be one of: translation=tiny", {"picture": red, "model": "gan=tiny"}),
        ("table", "Family must be one of", {"families": ["gan=gone"]}),
        ("texture", "A texture has 64 pixels a side at least", {"picture": red}),
        ("texture", "not a readable image", {"picture": bad}),
        ("texture", "Side must be a whole number from 64 to 512", {"picture": handle_file(str(fur)), "side": 32}),
        ("texture", "Rounds must be", {"picture": handle_file(str(fur)), "iterations": "many"}),
    ):
        with pytest.raises(AppError, match=words_said):
            client.predict(api_name=f"/families_{endpoint}", **sent)


# ---- in a browser ----------------------------------------------------------------------------------------------------


def wait_for(page, where: str, pattern: str) -> str:
    said = "([where, pattern]) => new RegExp(pattern).test(document.querySelector(where).innerText)"
    page.wait_for_function(said, arg=[where, pattern])
    return page.inner_text(where)


def pictures_in(page, where: str) -> list[str]:
    return page.eval_on_selector_all(f"{where} img", "all => all.map((image) => image.src)")


def to_tab(page, name: str) -> None:
    page.get_by_role("tab", name=name).click()


WATCH = """() => {
  window.seen = new Set();
  const sheet = document.querySelector('#families-sheet');
  const look = () => sheet.querySelectorAll('img').forEach((image) => window.seen.add(image.src));
  new MutationObserver(look).observe(sheet, { childList: true, subtree: true });
}"""


@pytest.mark.timeout(300)
def test_draw_watch_stop_ask_walk_and_compare(address, page, models, tmp_path):
    page.goto(address)
    assert "gone: train <b>it</b>" in page.get_by_role("alert").inner_text()
    page.wait_for_selector("#families-sheet img")  # the drawing that it opens with
    page.locator("#families-seed input").fill("11")
    page.get_by_label("New seed every time").uncheck()
    page.evaluate(WATCH)
    page.locator("#families-draw").click()
    assert "seed 11" in wait_for(page, "#families-status", "^Done: 41 steps")
    assert page.eval_on_selector_all("#families-sheet h4", "all => all.map((h) => h.childNodes[0].data.trim())") == [
        "VAE", "GAN", "Tokens", "Energy", "Diffusion",
    ]  # fmt: skip
    assert page.evaluate("window.seen.size") >= 8, "five pictures, and those that some of them were on the way"
    assert len(re.findall(r"\d (ms|s)\b", page.inner_text("#families-sheet"))) == 5
    assert page.eval_on_selector("#families-sheet img", "img => getComputedStyle(img).imageRendering") == "pixelated"
    assert page.eval_on_selector("#families-sheet img", "img => img.clientWidth") >= 128
    with page.expect_download() as download:
        page.get_by_text("Download PNG with receipts").click()
    download.value.save_as(tmp_path / "sheet.png")
    receipts = json.loads(pictures.read_png_text(tmp_path / "sheet.png")[RECEIPT_KEY])
    assert [receipt["seeds"] for receipt in receipts] == [["11"]] * 5 and not any(map(altered_fields, receipts))

    begun, stopped = threading.Event(), threading.Event()

    def hold(*_):
        begun.set()
        stopped.wait(60)
        time.sleep(0.3)

    held = models["ddpm=tiny"].unet.register_forward_pre_hook(hold)
    page.locator("#families-draw").click()
    while not begun.is_set():
        page.wait_for_timeout(100)
    page.locator("#families-stop").click()
    page.wait_for_timeout(300)
    stopped.set()
    wait_for(page, "#families-status", r"^Stopped after \d+ of 41 steps")
    held.remove()
    assert "of 20 steps" in page.inner_text("#families-sheet")

    to_tab(page, "Your picture")
    wait_for(page, "#families-looked", "^Answered in")  # of the example that it opens with
    first = pictures_in(page, "#families-answers")
    assert len(first) == 5 and "Bits per dimension" in page.inner_text("#families-answers")
    page.get_by_role("button", name="fox").click()
    page.wait_for_function("old => document.querySelector('#families-answers img')?.src !== old", arg=first[0])
    wait_for(page, "#families-looked", "^Answered in")

    to_tab(page, "Between two")
    page.locator("#families-walk").click()
    wait_for(page, "#families-walked", "^Done: 22 steps")
    assert len(pictures_in(page, "#families-walks")) == 3 * WALK and "whole things" in page.inner_text(
        "#families-walks"
    )
    to_tab(page, "Another style")
    wait_for(page, "#families-styled", r"^2 pictures in \d")  # of the example that it opens with
    first = pictures_in(page, "#families-styles")
    assert len(first) == 3 and "<b>" in page.inner_text("#families-styles"), "what goes in, and each style"
    RED.save(tmp_path / "red.png")
    page.locator("#families-style input[type=file]").set_input_files(tmp_path / "red.png")
    page.wait_for_function("old => document.querySelector('#families-styles img')?.src !== old", arg=first[0])
    page.locator("#families-style").get_by_role("button", name="Remove Image").click()
    wait_for(page, "#families-styles", "What it is in other styles stands here")
    to_tab(page, "Texture")
    page.get_by_label("bricks").check()
    page.locator("#families-weave").click()
    wait_for(page, "#families-woven", "^Done: 5 steps")
    assert page.eval_on_selector("#families-texture img", "image => image.naturalWidth") == 256
    with page.expect_download() as download:
        page.get_by_text("Download PNG", exact=True).click()
    with Image.open(download.value.path()) as made:
        assert made.size == (256, 256) and np.asarray(made).std() > 10
    to_tab(page, "Compare")
    assert page.locator("#families-table tbody tr").count() == 5 and words.UNKNOWN in page.inner_text("#families-table")
    for name in ("Compare", "Texture", "Another style", "Between two", "Your picture", "Draw"):
        page.set_viewport_size({"width": 1280, "height": 900})
        to_tab(page, name)
        for width in (1280, 390):
            page.set_viewport_size({"width": width, "height": 844})
            page.wait_for_timeout(250)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, (name, width)


def test_without_weights_the_page_says_what_is_missing(page, serve):
    page.goto(serve(app.build({name: store.CheckpointError(f"{name} is missing: train it") for name in NAMES})))
    page.get_by_role("alert").nth(4).wait_for()
    assert not page.query_selector("#families-sheet")
