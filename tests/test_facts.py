"""training/data/facts: what a data set says of itself, and that nothing is guessed of one that says nothing."""

import pytest
import yaml

from hub_models.publish import lint
from training.data import facts
from training.data.facts import Facts, facts_of
from training.data.sources import DataError


def write(folder, front):
    folder.mkdir(exist_ok=True)
    (folder / "README.md").write_text(f"---\n{front}---\n\n# Mine\n", encoding="utf-8")
    return str(folder)


def test_our_cards_say_whose_work_it_is():
    names = sorted(path.stem for path in facts.CARDS.glob("*.md"))
    assert names == ["camvid", "clothing-10", "flickr8k", "photo-scenes"]
    for path in facts.CARDS.glob("*.md"):
        front = yaml.safe_load(path.read_text(encoding="utf-8").split("---\n")[1])
        assert not [p for p in lint.lint(path.read_text(encoding="utf-8"), repo_type="dataset")], path.name
        assert front["vitrail"]["credits"], path.name
        if front["license"] == "other":  # not ours to pass on
            assert front["vitrail"]["show_pictures"] is False and "research" in front["vitrail"]["limits"][0].lower()


def test_a_card_is_read_from_the_data_sets_folder(tmp_path):
    facts.put_card("camvid", tmp_path / "streets")
    found = facts_of(str(tmp_path / "streets"))
    assert found.title == "CamVid" and not found.show_pictures and found.credits[0].startswith("CamVid, Brostow")
    assert found.licensed() == {
        "license": "other",
        "license_name": "camvid-research-use",
        "license_link": "https://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/",
    }


@pytest.mark.parametrize("name", ["camvid", "clothing-10", "emoji_faces", "photo-scenes"])
def test_a_folder_is_its_owners_whatever_it_is_called(tmp_path, name):
    (tmp_path / name).mkdir()
    assert facts_of(str(tmp_path / name)) == Facts(name)
    assert facts_of(f"somebody/{name}") == Facts(name)
    write(tmp_path / name, "license: mit\n")
    assert facts_of(str(tmp_path / name)) == Facts(name, "mit")


@pytest.mark.parametrize(
    ("front", "said"),
    [
        ("a: [b\n", "no YAML"),
        ("license: [mit, cc0-1.0]\n", "license has to be a text"),
        ("vitrail: 3\n", "has to be an object"),
        ("vitrail: {credits: me}\n", "credits has to be a list"),
        ("vitrail: {limits: [1]}\n", "limits has to be a list"),
        ("vitrail: {show_pictures: maybe}\n", "true or false"),
    ],
)
def test_a_card_that_cannot_be_read_is_named(tmp_path, front, said):
    with pytest.raises(DataError, match=said):
        facts_of(write(tmp_path / "mine", front))


def test_a_card_that_is_a_link_or_enormous_is_not_read(tmp_path):
    write(tmp_path / "other", "pretty_name: A secret\n")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "README.md").symlink_to(tmp_path / "other" / "README.md")
    assert facts_of(str(tmp_path / "mine")) == Facts("mine")
    (tmp_path / "mine" / "README.md").unlink()
    (tmp_path / "mine" / "README.md").write_bytes(b"---\n" + b"a" * facts.MAX_BYTES)
    with pytest.raises(DataError, match="more than"):
        facts_of(str(tmp_path / "mine"))
