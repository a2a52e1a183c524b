"""benchmarks/towers: the table of what each pretraining is worth."""

import pytest

from benchmarks import towers
from hub_models import store
from training import results


def test_the_table_of_towers_says_what_was_found_and_leaves_empty_what_was_not():
    ways = [f"{split}/{way}" for split in towers.SETS for way in ("knn", "probe", "few_20")]
    own = {way: 0.01 * n for n, way in enumerate(ways)}
    hog = {way: None if way.endswith("few_20") else 0.5 for way in ways}
    rows = [
        {"tower": "mae", "architecture": "vit", "segmentation": 0.321} | own,
        {"tower": "random", "architecture": "swin", "segmentation": 0.1, "detection": 0.0456} | own,
    ]
    *_, table, _ = results.towers_part({"labels": 20, "steps": towers.STEPS, "rows": rows, "baseline": hog})
    assert table.splitlines() == [
        "| | k-NN | probe | 20 labels a class | scenes, mIoU | scenes, box mAP |",
        "|---|---:|---:|---:|---:|---:|",
        "| mae vit | 0.0 / 3.0 / 6.0 | 1.0 / 4.0 / 7.0 | 2.0 / 5.0 / 8.0 | 32.1 |  |",
        "| random swin | 0.0 / 3.0 / 6.0 | 1.0 / 4.0 / 7.0 | 2.0 / 5.0 / 8.0 | 10.0 | 4.6 |",
        "| HOG and colour | 50.0 / 50.0 / 50.0 | 50.0 / 50.0 / 50.0 |  |  |  |",
    ]


def test_what_was_measured_of_a_tower_is_kept_for_its_weights_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(towers, "HOME", tmp_path)
    monkeypatch.setattr(towers.subprocess, "run", lambda *a, **k: pytest.fail("it trains again"))
    swin, vit = (store.bundled("classifier")[name] for name in ("swin", "vit"))
    towers._keep(tmp_path / "x-detection.json", swin, {"score": 0.25, "minutes": 1.0})
    assert towers.of_scenes("x", "detection", "swin", swin) == {"detection": 0.25}
    assert towers.of_scenes("x", "detection", "vit", vit) == {}, "no head for a ViT"
    assert towers._kept(tmp_path / "x-detection.json", vit) is None
    monkeypatch.setitem(towers.STEPS, "detection", 7)
    assert towers._kept(tmp_path / "x-detection.json", swin) is None
    assert towers._named("labels=classifier/swin") == ("labels", swin) and towers.architecture(swin) == "swin"
    for given, words in (("labels", "NAME=FOLDER"), ("a=nowhere", "holds no config.json")):
        with pytest.raises(SystemExit, match=words):
            towers._named(given)
    with pytest.raises(SystemExit, match="Swins and ViTs"):
        towers.architecture(store.bundled("classifier")["photo"])
