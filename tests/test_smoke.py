"""Every training script on its tiny preset, end to end: killed, resumed, evaluated, exported, opened by stock classes.

The scripts run as processes of their own, on the pictures in tests/data.
"""

import atexit
import functools
import importlib
import json
import math
import os
import re
import shutil
import signal
import tempfile
from pathlib import Path

import numpy as np
import pytest
import tiny_models
import torch
from children import ranks, run
from diffusers import DDPMPipeline
from families import FAMILIES
from safetensors.torch import load_file

from hub_models import store
from hub_models.publish import packing
from training import checkpoint, publish
from training.checkpoint import sha256_of

pytestmark = [pytest.mark.smoke, pytest.mark.timeout(600)]

TINY = ["--preset", "tiny", "--cpu"]


@functools.cache
def parts() -> Path:
    """A folder of what U-Net and captioner stand on: autoencoder/ and clip/, random; the cache goes there, too."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for stem in ("autoencoder", "clip"):
        FAMILIES[stem].save(folder / stem)
    return folder


def _script(stem: str, argv: list[str], die_after_saves: int = 0) -> None:
    """What `python -m training.<stem> argv` does; killed when so many checkpoints are written."""
    module, save, saves = importlib.import_module(f"training.{stem}"), checkpoint.save, 0

    def save_and_die(*args, **kwargs):
        nonlocal saves
        folder, saves = save(*args, **kwargs), saves + 1
        if saves == die_after_saves:
            os.kill(os.getpid(), signal.SIGKILL)
        return folder

    if die_after_saves:
        checkpoint.save = save_and_die
    if "--vae_name_or_path" in argv:
        os.environ["VITRAIL_CACHE"] = str(Path(argv[argv.index("--vae_name_or_path") + 1]).parent / "cache")
    module.main(argv)


def script_flags(stem: str, run_dir: Path, *flags: str) -> list[str]:
    """The flags of a tiny run of a script, on the parts that it stands on."""
    argv = [*TINY, "--output_dir", str(run_dir), *flags]
    for flag, part in FAMILIES[stem].parts.items():
        argv += [flag, str(parts() / part)]
    return argv


def script(stem: str, run_dir: Path, *flags: str, die_after_saves: int = 0, code: int = 0) -> str:
    """Run a script in a process of its own, expect its exit code, return what it printed."""
    argv = script_flags(stem, run_dir, *flags)
    got, text = run(_script, stem, argv, die_after_saves, log=run_dir.with_suffix(".log"))
    assert got == code, text
    return text


def losses_of(run_dir: Path) -> list[float]:
    rows = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    return [row["loss"] for row in rows if "loss" in row]


def weights_in(folder: Path) -> dict[str, str]:
    """{file: sha256} of all weights below a folder."""
    return {str(path.relative_to(folder)): sha256_of(path) for path in sorted(folder.rglob("*.safetensors"))}


@pytest.fixture(scope="module", params=FAMILIES)
def trained(request, tmp_path_factory) -> tuple[str, Path, str]:
    """(stem, run folder, what it printed) of an undisturbed run of the tiny preset."""
    run_dir = tmp_path_factory.mktemp(request.param) / "whole"
    return request.param, run_dir, script(request.param, run_dir)


@pytest.fixture(scope="module")
def classifier_run(tmp_path_factory) -> Path:
    """A tiny classifier, to be the judge where a trained one is asked for."""
    run_dir = tmp_path_factory.mktemp("judge") / "run"
    script("classifier", run_dir)
    return run_dir


def test_a_run_leaves_what_it_promises(trained):
    _, run_dir, text = trained
    assert [step for step, _ in checkpoint.found(run_dir)] == [1, 2]
    assert len(losses_of(run_dir)) == 2
    assert json.loads((run_dir / "config.json").read_text())["dataset_name"] in ("emoji-sample", "scenes-sample")
    for words in ("one measured step", "peak memory", "a push would take: README.md"):
        assert words in text
    first = text[text.index("preset tiny: ") :].splitlines()[0]  # what differs comes first, all of it is in the file
    assert first.startswith("preset tiny: ") and f"output_dir {run_dir}" in first and "seed" not in first
    config = json.loads((run_dir / "config.json").read_text())
    assert (config["seed"], config["max_train_steps"], config["output_dir"]) == (0, 2, str(run_dir))


def test_killed_and_resumed_gives_the_same_weights(trained, tmp_path):
    stem, whole, _ = trained
    run_dir = tmp_path / "run"
    script(stem, run_dir, die_after_saves=1, code=-signal.SIGKILL)
    assert [step for step, _ in checkpoint.found(run_dir)] == [1]
    assert not (run_dir / "export").exists()
    assert "resumed checkpoint-1: 1 steps to go" in script(stem, run_dir, "--resume_from_checkpoint", "latest")
    assert weights_in(run_dir / "export") == weights_in(whole / "export")
    assert weights_in(run_dir / "checkpoint-2") == weights_in(whole / "checkpoint-2")
    assert losses_of(run_dir) == losses_of(whole)


def test_the_stock_class_loads_the_averaged_weights_in_fp32(trained):
    stem, run_dir, _ = trained
    family = FAMILIES[stem]
    model = family.opened(run_dir / "export")
    averaged = checkpoint.find(run_dir, "latest").tensors("ema")
    raw = checkpoint.find(run_dir, "latest").tensors("model")
    parameters = dict(model.named_parameters())
    assert len(parameters) == len(averaged) - family.aside
    for number, (name, parameter) in enumerate(parameters.items()):
        assert parameter.dtype == torch.float32
        if name in family.moved:
            continue
        torch.testing.assert_close(parameter.data, averaged[str(number)].half().float(), rtol=0, atol=0)
    raw = {name.removeprefix(family.wrapped): value for name, value in raw.items()}
    kept = parameters.keys() - family.moved
    assert any(not torch.equal(parameters[name].data, raw[name].half().float()) for name in kept)
    on_disk = [t for file in (run_dir / "export").rglob("*.safetensors") for t in load_file(file).values()]
    assert {t.dtype for t in on_disk if t.is_floating_point()} == {torch.float16}


def test_the_contract_loads_it_and_agrees_with_the_stock_class(trained):
    stem, run_dir, _ = trained
    family = FAMILIES[stem]
    ours = family.load(run_dir / "export")
    family.assert_alike(ours, family.opened(run_dir / "export"))
    assert family.knows(ours)


def _evaluate(stem: str, export: Path, output: Path, weights: Path, flags: list[str]) -> None:
    """`python -m training.evaluate`, with `weights` in the place of the bundled ones, and the judges among them."""
    from training import evaluate, judges

    store.WEIGHTS = weights
    if stem in ("ddpm", "energy", "gan", "ladder", "text_to_image", "tokens", "translation"):
        judges.KEPT = tiny_models.kept_judges(weights)
    evaluate.main([stem, "--model", str(export), "--dataset", "emoji-sample", "--output", str(output), *flags])


def test_it_is_evaluated_and_the_numbers_go_into_the_card(trained, classifier_run, tmp_path, monkeypatch):
    stem, run_dir, _ = trained
    monkeypatch.setattr(store, "WEIGHTS", tmp_path / "weights")
    publish.main([str(classifier_run), "--bundle", "classifier/swin"])  # a judge, where it is looked for
    publish.main([str(run_dir), "--bundle", f"{stem}/measured"])
    folder, output = tmp_path / "weights" / stem / "measured", tmp_path / "results.json"
    log = tmp_path / "log"
    code, text = run(_evaluate, stem, folder, output, tmp_path / "weights", ["--record"], log=log)
    assert code == 0, text
    results = json.loads(output.read_text(), parse_constant=pytest.fail)  # NaN is no JSON
    assert {"stem", "model", "dataset", "data_hash", "seconds", "metrics", "per_class", "curves"} <= results.keys()
    assert (results["stem"], results["model"], results["dataset"]) == (stem, "measured", "emoji-sample")
    assert all(math.isfinite(value) for value in results["metrics"].values())
    expected = FAMILIES[stem].metrics
    assert expected <= results["metrics"].keys()
    for name in expected:
        assert re.search(rf"^{name} +-?[\d.e-]+", text, re.MULTILINE), text  # the table
    if FAMILIES[stem].confusion:
        curve, accuracy = FAMILIES[stem].confusion
        confusion = np.array(results["curves"][curve])
        assert np.trace(confusion) / confusion.sum() == pytest.approx(results["metrics"][accuracy])
    assert json.loads((folder / "results.json").read_text()) == results
    store.verify(folder, manifest_required=True)  # the manifest knows the new card
    assert "results.json" in packing.files_to_push(folder)


def test_what_would_be_pushed(trained, capsys):
    _, run_dir, text = trained
    export = run_dir / "export"
    (export / ".env").write_text("SECRET=1")
    (export / "optimizer.bin").write_bytes(b"pickle")
    publish.main([str(run_dir), "--dry_run"])
    names = {line.split()[-1] for line in capsys.readouterr().out.splitlines()}
    (export / ".env").unlink()
    (export / "optimizer.bin").unlink()
    assert {"README.md", "run.json", "manifest.json"} <= names
    assert not names & {".env", "optimizer.bin"}
    announced = re.search("a push would take: (.*)", text).group(1).split(", ")
    assert set(announced) <= names  # what was said before step 1 is what came
    here = str(run_dir.parent)
    for name in names:
        if name.endswith((".json", ".md")):
            assert here not in (export / name).read_text(), f"{name} names this machine's folders"


def test_fine_tuning_starts_from_an_export(trained, tmp_path):
    stem, run_dir, _ = trained
    # A learning rate of next to nothing: what comes out is what went in.
    flags = ["--learning_rate", "1e-12", "--adam_weight_decay", "0", "--max_train_steps", "1", *FAMILIES[stem].still]
    script(stem, tmp_path / "run", "--pretrained_model_name_or_path", str(run_dir / "export"), *flags)
    models = [FAMILIES[stem].opened(folder / "export") for folder in (run_dir, tmp_path / "run")]
    before, after = (dict(model.named_parameters()) for model in models)
    assert before.keys() == after.keys()
    for name in before:
        torch.testing.assert_close(after[name], before[name], rtol=0, atol=1e-6)


def test_unconditional_ddpm_runs_in_the_stock_pipeline(tmp_path):
    script("ddpm", tmp_path / "run", "--no-class_conditional", "--guidance_scale", "1", "--max_train_steps", "1")
    pipeline = DDPMPipeline.from_pretrained(tmp_path / "run/export")
    assert pipeline.unet.dtype == torch.float32
    pipeline.set_progress_bar_config(disable=True)
    picture = pipeline(num_inference_steps=2, generator=torch.Generator().manual_seed(0)).images[0]
    assert (picture.size, picture.mode) == ((16, 16), "RGB")


def test_two_processes_give_the_losses_of_one_and_a_run_may_move(tmp_path):
    """Two at half the batch each, three steps; then one process takes the run over."""
    flags = ["--lr_scheduler", "constant", "--checkpointing_steps", "3", "--validation_steps", "100"]
    one, two = tmp_path / "one", tmp_path / "two"
    script("ddpm", one, *flags, "--max_train_steps", "4")
    argv = [*TINY, "--output_dir", str(two), *flags, "--max_train_steps", "3", "--train_batch_size", "4"]
    with ranks(2, _script, "ddpm", argv, log=tmp_path / "log") as processes:
        for process in processes:
            process.join(300)
        text = (tmp_path / "log.0").read_text()
        assert [process.exitcode for process in processes] == [0, 0], text + (tmp_path / "log.1").read_text()
    assert re.search(r"8 per step on cpu(:0)? × 2", text), text
    assert len(losses_of(two)) == 3
    script("ddpm", two, *flags, "--max_train_steps", "4", "--resume_from_checkpoint", "latest")
    assert len(set(losses_of(one))) == len(losses_of(two)) == 4
    assert losses_of(two) == pytest.approx(losses_of(one), abs=1e-5)


def _script_with_two_flags(stem: str, run_dir: Path) -> None:
    os.environ["VITRAIL_CACHE"] = str(run_dir.parent / "cache")
    _script(stem, ["--preset", "tiny", "--output_dir", str(run_dir)])


@pytest.mark.parametrize("stem", ["captioning", "text_to_image"])
def test_two_flags_are_enough_where_a_script_stands_on_another_ones_weights(stem, tmp_path):
    """On what is shipped, as a person runs it; the other tests bring smaller parts."""
    code, text = run(_script_with_two_flags, stem, tmp_path / "run", log=tmp_path / "log")
    assert code == 0, text
    assert weights_in(tmp_path / "run/export")
    FAMILIES[stem].opened(tmp_path / "run/export")


def _stopped(stem: str, argv: list[str], ways: list[list[str]]) -> None:
    """The script with each of these flags in turn, and after each the status by which it ended."""
    for flags in ways:
        status = 0
        try:
            _script(stem, argv + flags)
        except SystemExit as end:
            status = end.code
        print(f"ended with {status!r}")


@pytest.mark.parametrize("stem", FAMILIES)
def test_flags_that_stop_a_script_before_it_starts(stem, tmp_path):
    argv, ways = script_flags(stem, tmp_path / "run"), [["--dry_run"], ["--no_such_flag", "1"]]
    code, text = run(_stopped, stem, argv, ways, log=tmp_path / "log")
    assert code == 0, text
    dry, well, unknown = text.partition("ended with 0\n")
    assert well and re.search('"dataset_name": "(emoji|scenes)-sample"', dry)
    assert "no_such_flag" in unknown and unknown.endswith("ended with 2\n")
    assert not (tmp_path / "run").exists()


def test_an_error_a_person_can_act_on_is_one_line(tmp_path):
    (tmp_path / "run").write_text("a file where the folder should be")
    text = script("classifier", tmp_path / "run", code=1)
    assert "choose another --output_dir" in text.splitlines()[-1]
    text = script("classifier", tmp_path / "other", "--dataset_name", str(tmp_path / "nowhere"), code=1)
    assert "nowhere" in text.splitlines()[-1]
