"""The mean of two runs: its tensors, its files, and what its card tells of both."""

import json

import pytest
import torch
from safetensors.torch import load_file

from hub_models import classifier as contract
from training import average, classifier


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two exports, the second of which began as the first."""
    root = tmp_path_factory.mktemp("runs")
    first, second = root / "first", root / "second"
    classifier.main(["--preset", "tiny", "--output_dir", str(first)])
    base = str(first / "export")
    classifier.main(["--preset", "tiny", "--output_dir", str(second), "--seed", "1", "--learning_rate", "0.01",
                     "--pretrained_model_name_or_path", base])  # fmt: skip
    return first / "export", second / "export"


def test_the_mean_loads_and_tells_both_runs(runs, tmp_path):
    average.main(average.Config(*runs, output_dir=tmp_path, share=0.25))
    made = tmp_path / "export"
    ours, theirs, mean = (load_file(folder / average.WEIGHTS) for folder in (*runs, made))
    for name, value in ours.items():
        expected = 0.75 * value.float() + 0.25 * theirs[name].float()
        torch.testing.assert_close(mean[name].float(), expected, atol=1e-3, rtol=1e-3)  # halves
    assert any(not torch.equal(value, ours[name]) for name, value in mean.items())
    assert contract.load(str(made)).label_names == contract.load(str(runs[1])).label_names
    run = json.loads((made / "run.json").read_text())
    assert [stage["steps"] for stage in run["earlier"]] == [2, 2]
    card = (made / "README.md").read_text(encoding="utf-8")
    assert "75% of those of first and 25% of those of second" in card and "training.average" in card


def test_none_of_the_second_is_the_first(runs, tmp_path):
    average.main(average.Config(*runs, output_dir=tmp_path, share=0.0))
    ours, mean = (load_file(folder / average.WEIGHTS) for folder in (runs[0], tmp_path / "export"))
    assert all(torch.equal(value, mean[name]) for name, value in ours.items())


def test_what_is_not_alike_is_refused(runs, tmp_path):
    with pytest.raises(SystemExit, match=r"\[0, 1\]"):
        average.main(average.Config(*runs, output_dir=tmp_path, share=1.5))
    with pytest.raises(SystemExit, match="no export folder"):
        average.main(average.Config(runs[0], tmp_path, output_dir=tmp_path))
    flags = ["--preset", "tiny", "--output_dir", str(tmp_path / "wide"), "--model_args.embed_dim", "48"]
    classifier.main(flags)
    with pytest.raises(SystemExit, match="no runs of one model"):
        average.main(average.Config(runs[0], tmp_path / "wide/export", output_dir=tmp_path))
