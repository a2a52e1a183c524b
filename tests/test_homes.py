"""A picture gets the model that has seen such pictures, the page says so where it doesn't; a person's choice stays."""

import json

import pytest
from gradio_client import Client, handle_file
from playwright.sync_api import expect

from apps import captioning, segmentation
from apps.kit import homes
from apps.kit.page import EXAMPLES
from apps.kit.parts import WAITING
from apps.kit.values import Models
from hub_models.worlds import Home

expect.set_options(timeout=60_000)
PHOTO = EXAMPLES / "segmentation" / "photo-cat.jpg"
PAGES = {
    "segmentation": (segmentation, ["swin-scenes", "photo"], EXAMPLES / "segmentation" / "new-scenes-00.png"),
    "captioning": (
        captioning,
        ["emoji", "photo", "clip=emoji", "clip=photo"],
        EXAMPLES / "captioning" / "04-dog-noto.png",
    ),
}


@pytest.fixture(scope="module", params=PAGES)
def stem(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def models(stem) -> dict:
    app, names, _ = PAGES[stem]
    return Models(app.load_models(names))


@pytest.fixture(scope="module")
def address(stem, models, serve_once) -> str:
    return serve_once(PAGES[stem][0].build(models))


@pytest.mark.browser
def test_page_opens_with_an_answer_and_the_next_picture_is_a_press_away(stem, address, page):
    _, names, _ = PAGES[stem]
    status, box = page.locator(f"#{stem}-status"), page.locator(f"#{stem}-picture")
    page.goto(address)
    expect(box.locator("img")).to_be_visible()
    expect(status).to_contain_text(names[0])
    with page.expect_file_chooser() as chooser:
        box.get_by_role("button", name="Upload file").click()
    chooser.value.set_files(PHOTO)
    expect(status).to_contain_text(names[1])


def drop(tab, stem, path):
    """A picture in place of the one that is there, if any."""
    if (remove := tab.get_by_label("Remove Image").first).is_visible():
        remove.click()
        expect(tab.locator(f"#{stem}-status")).to_contain_text(WAITING)
    tab.set_input_files(f"#{stem}-picture input[type=file]", path)


@pytest.mark.browser
def test_photograph_and_drawing_get_their_models_and_a_choice_is_kept(stem, address, page):
    _, names, drawing = PAGES[stem]
    for_drawings, for_photos = names[:2]
    line, switch = page.locator(f"#{stem}-home"), page.locator(f"#{stem}-try")
    status = page.locator(f"#{stem}-status")
    chip = {name: page.get_by_role("radio", name=name, exact=True) for name in names[:2]}
    page.goto(address)
    expect(page.locator(f"#{stem}-picture img")).to_be_visible()  # what the page opens with
    expect(chip[for_drawings]).to_be_checked()

    drop(page, stem, PHOTO)
    expect(chip[for_photos]).to_be_checked()
    expect(status).to_contain_text(for_photos)
    expect(line).to_be_hidden()
    drop(page, stem, drawing)
    expect(chip[for_drawings]).to_be_checked()
    expect(status).to_contain_text(for_drawings)
    expect(switch).to_be_hidden()

    chip[for_photos].click()  # a person's own choice
    expect(line).to_contain_text(f"{for_photos} has seen photographs only")
    expect(switch).to_have_text(f"Try {for_drawings}")
    drop(page, stem, PHOTO)
    expect(status).to_contain_text(for_photos)
    expect(line).to_be_hidden()
    drop(page, stem, drawing)
    expect(line).to_contain_text("photographs only")
    expect(chip[for_photos]).to_be_checked()

    switch.click()
    expect(chip[for_drawings]).to_be_checked()
    expect(status).to_contain_text(for_drawings)
    expect(line).to_be_hidden()
    drop(page, stem, PHOTO)  # whoever took the advice is advised again
    expect(chip[for_photos]).to_be_checked()


def test_programs_are_told(stem, models, address):
    _, (for_drawings, for_photos, *_), drawing = PAGES[stem]
    call = {"segmentation": "/segmentation_predict", "captioning": "/captioning_caption"}[stem]
    more = {"prefix": ""} if stem == "captioning" else {}
    client = Client(address, verbose=False)
    for name, path, best in ((for_drawings, PHOTO, for_photos), (for_photos, drawing, for_drawings)):
        said = client.predict(picture=handle_file(path), model=name, api_name=call, **more)
        said = said if stem == "captioning" else said[-1]
        assert said["world"] == {"seen": models[name].world.kind, "best": best, "outside": False}, json.dumps(said)[
            :300
        ]


def test_lines_are_ranked_by_the_eye_that_the_picture_is_for(stem, address):
    if stem != "captioning":
        pytest.skip("it ranks nothing")
    client = Client(address, verbose=False)
    for path, eye in ((PHOTO, "photo"), (PAGES[stem][2], "emoji")):
        said = client.predict(picture=handle_file(path), lines="a cat\na red car", api_name="/captioning_rank")
        assert said["model"] == eye


def test_sentences(models, stem):
    _, (for_drawings, for_photos, *_), drawing = PAGES[stem]
    kind = models[for_drawings].world.kind
    assert homes.sentence(Home(for_photos, False), for_photos, models) == ""
    assert homes.sentence(Home(for_photos, False), for_drawings, models) == (
        f"This looks more like photographs than like {kind}, and {for_drawings} has seen {kind} only."
    )
    assert "do not rely" in homes.sentence(Home(for_photos, True), for_photos, models)
    assert homes.sentence(Home(None, False), for_photos, models) == ""
    without = Models(foreign=type("Foreign", (), {"world": None}))
    assert homes.fact(str(drawing), "foreign", without) is None
