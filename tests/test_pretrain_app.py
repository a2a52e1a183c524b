"""The page `pretrain`: its desk against the contract, its endpoints, its known pictures, and the story in a browser."""

import json
import re

import numpy as np
import pytest
import tiny_models
import torch
from conftest import serving
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from apps import pretrain as app
from apps.kit import values
from apps.pretrain import column, words
from apps.pretrain.desk import FINE, LAST, Desk, Place
from apps.pretrain.known import FOLDER, known
from hub_models import components, pretrain, store

PICTURES = [Image.radial_gradient("L").convert("RGB").rotate(30), Image.new("RGB", (30, 18), "red")]
SHOWN = [(str(k), picture) for k, picture in enumerate(PICTURES)]
NAMES = ["tiny", "swin", "untrained=vit", "untrained=swin"]


@pytest.fixture(scope="module")
def towers(tmp_path_factory):
    home, made = tmp_path_factory.mktemp("towers"), {}
    for name, kind in (("tiny", "vit"), ("swin", "swin")):
        tiny_models.tower(home / name, kind)
        (home / name / "run.json").write_text(json.dumps({"config": {"objective": "dino"}} if name == "tiny" else {}))
        (home / name / "results.json").write_text(
            json.dumps({"metrics": {"unseen_style/knn": 0.625, "validation/knn": "x"}})
        )
        made[name] = pretrain.load(str(home / name), device="cpu")
    return made


@pytest.fixture(scope="module")
def desk(towers):
    return Desk(towers)


@pytest.fixture(scope="module")
def address(towers):
    with serving() as start:
        yield start(app.build(towers | {"gone": store.CheckpointError("gone: train <b>it</b>")}))


# ---- without a page --------------------------------------------------------------------------------------------------


def test_each_architecture_has_an_untrained_tower_beside_it(desk, towers):
    assert list(desk.columns) == NAMES
    for name, kind in (("tiny", "vit"), ("swin", "swin")):
        fresh = desk.columns[f"untrained={kind}"]
        expected = pretrain.untrained(towers[name].folder)
        assert all(torch.equal(v, expected.state_dict()[k]) for k, v in fresh.tower.model.state_dict().items())
        assert fresh.title == "Nothing" and not fresh.figures


def test_what_a_tower_learned_from_and_what_was_measured_come_from_its_folder(towers):
    named = {str(tower.folder): tower for tower in towers.values()}
    first, second, *_ = column.columns(named).values()
    assert first.title == column.WAYS["dino"][0] and first.figures == {"k-NN, unseen style": 0.625}
    assert second.said == "Its folder doesn't say from what."
    from training import pretrain as training

    assert set(column.WAYS) == set(training.OBJECTIVES)


def test_components_share_one_basis_and_likeness_is_the_cosine(desk, towers):
    place = Place(1, 0.6, 0.2)
    for name in ("tiny", "swin"):
        found = desk.patches(desk.columns[name], SHOWN, place, LAST)
        maps = towers[name].token_maps(PICTURES)[-1]  # (P, h, w, D)
        pca = components.fitted(maps.reshape(-1, maps.shape[-1]))
        h, w = maps.shape[1:3]
        assert found.cell == (int(0.6 * h), int(0.2 * w)) and found.layer == found.layers
        for k in range(2):
            assert np.abs(found.colours[k].astype(int) - components.colours(maps[k], pca)).max() <= 1
        one = torch.tensor(maps[1][found.cell])
        np.testing.assert_allclose(found.cosines, torch.cosine_similarity(torch.tensor(maps), one, -1), atol=1e-4)
        variances = np.linalg.eigvalsh(np.cov(maps.reshape(-1, maps.shape[-1]).T.astype(float)))
        assert found.explained == pytest.approx(variances[-3:].sum() / variances.sum(), rel=1e-3)
        assert found.cosines[1][found.nearest[1]] == found.cosines[1].max()


def test_the_fine_layer_is_the_last_that_has_eight_places(desk):
    assert desk.patches(desk.columns["swin"], SHOWN, Place(0, 0, 0), FINE).colours.shape[1:3] == (8, 8)
    assert desk.patches(desk.columns["swin"], SHOWN, Place(0, 0, 0), LAST).colours.shape[1:3] == (4, 4)
    assert desk.patches(desk.columns["tiny"], SHOWN, Place(0, 0, 0), FINE).layer == 2, "none has: the last of all"


def test_depth_is_a_share_of_the_blocks(desk, towers):
    for depth, number in ((0, 1), (0.3, 1), (0.7, 2), (1, 3)):
        seen = desk.looked(desk.columns["swin"], PICTURES[0], Place(0, 0.5, 0.5), depth)
        assert (seen.number, seen.of) == (number, 3)
    expected = towers["swin"].looked(PICTURES[0], 3, 0.5, 0.5)
    np.testing.assert_array_equal(seen.heads, expected.heads)


def test_known_pictures_are_those_of_their_index_and_none_that_is_shown():
    those = known()
    rows = json.loads((FOLDER / "index.json").read_text())
    assert len(those.pictures) == len(rows) == len(those.names) > 200 and len(set(those.labels)) == 12
    assert {row["style"] for row in rows} == {"noto", "twemoji", "fluent", "fluent-flat", "fxemoji"}
    assert {row["split"] for row in rows} <= {"validation", "heldout_pairs"}, "no model has learned from any"
    shown = {(row["name"], row.get("style")) for row in app.PAGE.examples}
    assert not shown & {(row["name"], row["style"]) for row in rows}
    assert np.asarray(those.pictures[-1]).std() > 5, "the last is no blank"


def test_neighbours_and_agreement_by_hand(desk, towers):
    those, tower = known(), towers["tiny"]
    rows = torch.nn.functional.normalize(tower.features(those.pictures), dim=1)
    of = torch.nn.functional.normalize(tower.features([PICTURES[0]]), dim=1)[0]
    near = desk.neighbours(desk.columns["tiny"], PICTURES[0], 5)
    cosines, order = (rows @ of).sort(descending=True)
    assert [k for k, _ in near] == order[:5].tolist()
    assert [cosine for _, cosine in near] == pytest.approx(cosines[:5].tolist(), abs=1e-5)
    pairs = rows @ rows.T - 2 * torch.eye(len(rows))
    same = [those.labels[i] == those.labels[j] for i, j in enumerate(pairs.argmax(1).tolist())]
    classes, names = those.agreement(desk.features(desk.columns["tiny"]))
    assert classes == pytest.approx(np.mean(same), abs=0.02) and 0 <= names <= classes
    assert desk.neighbours(desk.columns["tiny"], those.pictures[7], 1)[0][0] == 7


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ((3, 50, 50), "Picture must be a whole number from 1 to 2"), ((1, 101, 50), "Row, in percent, must"),
        ((1, 50, None), "Column, in percent, must"), ((1.5, 1, 1), "Picture must"),
    ],
)  # fmt: skip
def test_a_place_that_is_none_is_a_sentence(desk, asked, said):
    with pytest.raises(values.InputError, match=re.escape(said)):
        desk.place(*asked, 2)


def test_models_are_own_towers_and_classifiers():
    found = app.load_models(["no-such", "classifier=gone"])
    assert list(found) == ["no-such", "classifier=gone"]
    assert all(isinstance(error, store.CheckpointError) for error in found.values())
    assert list(app.load_models([])) == [*app.PAGE.models, "classifier=vit", "classifier=swin"]


# ---- for programs ----------------------------------------------------------------------------------------------------


def test_the_api_compares_looks_and_finds(address, towers, tmp_path):
    client = Client(address, verbose=False, download_files=str(tmp_path))
    found = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert set(found) == {f"/pretrain_{name}" for name in ("attention", "neighbours", "patches")}
    PICTURES[0].save(tmp_path / "a.png")
    picture = handle_file(str(tmp_path / "a.png"))
    given = {"first": picture, "second": picture, "third": None, "fourth": None, "number": 2, "row": 10, "column": 90}
    sheets, said = client.predict(**given, layer=LAST, towers=["swin"], api_name="/pretrain_patches")
    assert list(said) == ["swin"] and said["swin"]["cell"] == [0, 3] and said["swin"]["nearest"][1] == [0, 3]
    with Image.open(sheets[0]["image"]) as sheet:
        assert sheet.size == (320, 320)
    sheets, said = client.predict(
        picture=picture, row=0, column=0, depth=0, towers=NAMES, api_name="/pretrain_attention"
    )
    expected = towers["tiny"].looked(PICTURES[0], 1, 0, 0)
    np.testing.assert_allclose(said["tiny"]["heads"], expected.heads, atol=1e-4)
    assert len(sheets) == 4 and said["swin"]["reachable"] == 16
    said = client.predict(picture=picture, count=3, towers=["tiny"], api_name="/pretrain_neighbours")
    assert len(said["tiny"]["nearest"]) == 3 and said["tiny"]["nearest"][0]["name"] in known().names
    for endpoint, sentence, wrong in (
        ("neighbours", "Tower must be one of", {"picture": picture, "towers": ["gone"]}),
        ("neighbours", "Neighbours must be a whole number from 1 to 12", {"picture": picture, "count": 99}),
        ("attention", "Towers must be a list", {"picture": picture, "towers": "tiny"}),
        ("patches", "Layer must be one of", given | {"layer": "first"}),
    ):
        with pytest.raises(AppError, match=sentence):
            client.predict(api_name=f"/pretrain_{endpoint}", **wrong)


# ---- in a browser ----------------------------------------------------------------------------------------------------


@pytest.mark.timeout(300)
def test_compare_click_look_and_find(address, page, tmp_path):
    page.goto(address)
    assert "gone: train <b>it</b>" in page.get_by_role("alert").inner_text()
    note = "said => new RegExp(said).test(document.querySelector('#pretrain-note').innerText)"
    page.wait_for_function(note, arg="^4 towers; neighbours of picture 1")
    tiles = page.locator("#pretrain-patches .tile")
    assert tiles.count() == 4 * 2 * 4 and page.locator("#pretrain-patches h4").first.inner_text().startswith(
        "Views, DINO"
    )
    box = tiles.nth(1).bounding_box()
    tiles.nth(1).click(position={"x": box["width"] * 0.9, "y": box["height"] * 0.1})
    page.wait_for_function("() => document.querySelectorAll('#pretrain-patches .tile')[1].querySelector('i')")
    assert page.locator("#pretrain-patches .tile").nth(0).locator("i").count() == 0
    place = page.locator("#pretrain-patches .tile").nth(1).locator("i").get_attribute("style")
    assert place.startswith("left:75.00%;top:0.00%"), "of 4 × 4 places the last of the first row"
    page.get_by_role("tab", name="Heads").click()
    assert (
        page.locator("#pretrain-attention section").count() == 4 and page.locator("#pretrain-attention i").count() > 4
    )
    page.get_by_role("tab", name="Neighbours").click()
    assert page.locator("#pretrain-near figure").count() == 4 * 8
    assert "62%" in page.inner_text("#pretrain-near") or "63%" in page.inner_text("#pretrain-near")
    for name in ("Neighbours", "Heads", "Alike"):
        page.set_viewport_size({"width": 1280, "height": 900})
        page.get_by_role("tab", name=name).click()
        for width in (1280, 390):
            page.set_viewport_size({"width": width, "height": 844})
            page.wait_for_timeout(250)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, (name, width)


def test_a_tower_without_heads_says_so(desk):
    said = words.refused(desk.columns["tiny"], "It has <b>no</b> heads.")
    assert "&lt;b&gt;" in said
