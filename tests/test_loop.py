"""The loop on a model of a thousand weights: exact resume, averaged weights, bad batches, signals, two processes.

Where a process is meant, it is a real one, killed by a real signal.
"""

import dataclasses
import itertools
import json
import math
import os
import resource
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from children import ranks, run, start
from safetensors.torch import load_file, save_file

from training import checkpoint, loop
from training.checkpoint import RunError, sha256_of
from training.config import TrainConfig, defaults_of, identity, parse
from training.journal import Journal
from training.loop import MAX_SKIPPED_IN_A_ROW, fit
from training.optim import Player, learning_rate_factor
from training.order import Schedule, sample_order

TIMES = {"images_per_second", "seconds"}  # of a line in metrics.jsonl: what may differ between equal runs


@dataclasses.dataclass(frozen=True)
class ToyConfig(TrainConfig):
    """A config with a tuple and a dict in it, as the real ones have."""

    widths: tuple[int, ...] = (8, 4)
    options: dict[str, int | tuple[int, ...]] = dataclasses.field(default_factory=lambda: {"depths": (2, 2)})


TOY = ToyConfig(
    cpu=True,
    max_train_steps=8,
    train_batch_size=4,
    learning_rate=1e-2,
    lr_warmup_steps=2,
    ema_decay=0.6,
    checkpointing_steps=3,
    validation_steps=4,
    logging_steps=2,
)


class ToySamples:
    """22 pictures (not a multiple of the batch) with fresh noise on each."""

    data_hash = "toy"

    def __init__(self, length: int = 22):
        self.pictures = torch.randn(length, 3, 6, 6, generator=torch.Generator().manual_seed(1))

    def __len__(self) -> int:
        return len(self.pictures)

    def sample(self, index: int, draw: torch.Generator) -> dict:
        noise = torch.randn(3, 6, 6, generator=draw)
        return {"noisy": self.pictures[index] + noise, "clean": self.pictures[index], "index": index}


def toy_model(*, plain: bool = False) -> torch.nn.Module:
    """A convolution with all that is hard to resume: running statistics and dropout (`plain` leaves those out)."""
    torch.manual_seed(0)
    middle = [] if plain else [torch.nn.BatchNorm2d(8), torch.nn.Dropout(0.2)]
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1), *middle, torch.nn.SiLU(), torch.nn.Conv2d(8, 3, 3, padding=1)
    )


def toy_loss(model, batch):
    return (model(batch["noisy"]) - batch["clean"]).square().mean(), {"first_index": batch["index"][0]}


def toy_export(model, folder: Path, run: dict) -> list[str]:
    folder.mkdir()
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, folder / "model.safetensors")
    return ["model.safetensors"]


def train(run_dir: Path, loss=toy_loss, *, plain=False, samples=None, evaluate=lambda model: {"one": 1.0}, **changes):
    """The toy's fit with some fields of its config changed."""
    model, samples = toy_model(plain=plain), ToySamples() if samples is None else samples
    cfg = dataclasses.replace(TOY, **changes)
    return fit([Player(model, loss)], samples, cfg, run_dir=run_dir, evaluate=evaluate, export=toy_export)


def lines_of(run_dir: Path) -> list[dict]:
    """metrics.jsonl without the times."""
    lines = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


def assert_same_run(run_dir: Path, reference: Path) -> None:
    """Same exported bytes, same last checkpoint, same log."""
    assert sha256_of(run_dir / "export/model.safetensors") == sha256_of(reference / "export/model.safetensors")
    last, expected = checkpoint.find(run_dir, "latest"), checkpoint.find(reference, "latest")
    assert last.step == expected.step
    for name in ("model", "ema", "optimizer"):
        file = f"{name}.safetensors"
        assert sha256_of(last.path / file) == sha256_of(expected.path / file), file
    assert lines_of(run_dir) == lines_of(reference)


def steps_in(run_dir: Path) -> list[int]:
    return [step for step, _ in checkpoint.found(run_dir)]


@pytest.fixture(scope="module", autouse=True)
def _as_many_threads_as_the_children():
    """Sums differ in the last bit between one thread and two."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> Path:
    """The run nobody disturbed."""
    run_dir = tmp_path_factory.mktemp("loop") / "reference"
    train(run_dir)
    return run_dir


# --- order of samples, schedule ------------------------------------------------------------------------------------


def test_every_epoch_takes_each_sample_once_and_any_cut_gives_the_same():
    whole = sample_order(22, 5, 0, 66)
    for epoch in range(3):
        assert sorted(whole[22 * epoch : 22 * (epoch + 1)]) == list(range(22))
    assert not np.array_equal(whole[:22], whole[22:44])
    assert not np.array_equal(whole[:22], sample_order(22, 6, 0, 22))
    for size in (1, 4, 22, 50):
        parts = [sample_order(22, 5, at, min(size, 66 - at)) for at in range(0, 66, size)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_processes_and_accumulation_share_a_batch_without_overlap():
    def keys(world, batch, parts, start=0):
        cfg = dataclasses.replace(TOY, train_batch_size=batch, gradient_accumulation_steps=parts)
        ranks = [list(Schedule(22, cfg, start, rank, world)) for rank in range(world)]
        steps = [[] for _ in range(8 - start)]
        for batches in ranks:
            for number, of_rank in enumerate(batches):
                steps[number // parts] += of_rank
        return [sorted(step) for step in steps]

    one = keys(1, 8, 1)
    assert all(len(step) == len({place for _, place, _ in step}) == 8 for step in one)
    assert keys(2, 4, 1) == keys(1, 4, 2) == keys(2, 2, 2) == keys(4, 2, 1) == one
    assert keys(2, 4, 1, start=5) == one[5:]


def test_learning_rate_by_hand():
    cfg = dataclasses.replace(TOY, lr_warmup_steps=4, max_train_steps=12)
    factors = [learning_rate_factor(step, cfg) for step in range(13)]
    assert factors[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert factors[8] == pytest.approx(0.5)  # half-way down the cosine
    assert factors[6] == pytest.approx(0.5 * (1 + math.sqrt(0.5)))
    assert factors[12] == pytest.approx(0)
    constant = dataclasses.replace(cfg, lr_scheduler="constant")
    assert [learning_rate_factor(step, constant) for step in (0, 3, 4, 100)] == [0.25, 1.0, 1.0, 1.0]


def test_the_rate_the_optimiser_uses_is_the_one_in_the_log(tmp_path):
    train(tmp_path / "run", logging_steps=1, max_train_steps=4, lr_warmup_steps=4)
    lines = [line for line in lines_of(tmp_path / "run") if "lr" in line]
    assert [line["lr"] for line in lines] == pytest.approx([0.0025, 0.005, 0.0075, 0.01])


# --- killed, and resumed -------------------------------------------------------------------------------------------


def _train_until(run_dir: Path, moment: str, number: int, changes: dict) -> None:
    """Train, and at the given moment send a signal to this very process."""
    seen = 0

    def strike(signal_number: int) -> None:
        nonlocal seen
        seen += 1
        if seen == number:
            os.kill(os.getpid(), signal_number)

    def wrap(owner, name: str, *, before: bool) -> None:
        original = getattr(owner, name)

        def wrapped(*args, **kwargs):
            if before:
                strike(signal.SIGKILL)
            result = original(*args, **kwargs)
            if not before:
                strike(signal.SIGKILL)
            return result

        setattr(owner, name, wrapped)

    def loss(model, batch):
        value = toy_loss(model, batch)
        if moment in ("SIGKILL", "SIGTERM", "SIGINT"):
            strike(getattr(signal, moment))  # in the middle of a step: after forward, before backward
        return value

    if moment == "half a save":
        wrap(checkpoint, "save_file", before=False)
    elif moment == "before the rename":
        wrap(checkpoint.os, "rename", before=True)
    elif moment == "after the rename":
        wrap(checkpoint.os, "rename", before=False)
    elif moment == "in the log":
        wrap(Journal, "note", before=False)
    train(run_dir, loss, **changes)


KILLS = [  # (moment, how many of it, newest complete checkpoint afterwards); the measured step counts as a forward pass
    ("SIGKILL", 2, None),  # in step 1
    ("SIGKILL", 6, 3),  # in step 5
    ("SIGKILL", 8, 6),  # in step 7
    ("half a save", 2, None),  # of step 3
    ("half a save", 5, 3),  # of step 6
    ("before the rename", 2, 3),  # of step 6
    ("after the rename", 2, 6),
    ("in the log", 3, 3),  # line of step 4 written, checkpoint of step 6 not
]


@pytest.mark.parametrize(("moment", "number", "survivor"), KILLS)
def test_killed_and_resumed_equals_undisturbed(tmp_path, reference, capfd, moment, number, survivor):
    run_dir = tmp_path / "run"
    code, text = run(_train_until, run_dir, moment, number, {}, log=tmp_path / "log")
    assert code == -signal.SIGKILL, text
    assert not (run_dir / "export").exists()
    with open(run_dir / "metrics.jsonl", "a") as file:
        file.write('{"step": 4, "loss": 0.')  # and the last line cut short
    found = checkpoint.find(run_dir, "latest")
    assert (found and found.step) == survivor
    train(run_dir, resume_from_checkpoint="latest")
    said = capfd.readouterr().out
    assert f"resumed checkpoint-{survivor}" in said if survivor else "starting from scratch" in said
    assert_same_run(run_dir, reference)
    assert not list(run_dir.glob("*.tmp"))


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_polite_signal_saves_and_says_how_to_go_on(tmp_path, reference, name, code):
    run_dir = tmp_path / "run"
    exit_code, text = run(
        _train_until, run_dir, name, 6, {}, log=tmp_path / "log"
    )  # in step 5: no multiple of anything
    assert exit_code == code, text
    assert steps_in(run_dir) == [3, 5]
    assert "saved step 5" in text
    assert "--resume_from_checkpoint latest" in text
    assert "Traceback" not in text
    train(run_dir, resume_from_checkpoint="latest")
    assert_same_run(run_dir, reference)


class TellingSamples(ToySamples):
    """Writes down which loader process makes the samples."""

    def __init__(self, file: Path):
        super().__init__()
        self.file = file

    def sample(self, index: int, draw: torch.Generator) -> dict:
        if torch.utils.data.get_worker_info() and not self.file.exists():
            self.file.write_text(str(os.getpid()))
        return super().sample(index, draw)


def _train_and_hang(run_dir: Path, folder: Path, changes: dict) -> None:
    """Train, and in step 5 touch the file `hanging` and sleep for a minute."""
    calls = 0

    def loss(model, batch):
        nonlocal calls
        calls += 1
        if calls == 6:  # with the measured one
            (folder / "hanging").touch()
            time.sleep(60)
        return toy_loss(model, batch)

    train(run_dir, loss, samples=TellingSamples(folder / "maker"), **changes)


def wait_for(file: Path, process, log: Path) -> None:
    deadline = time.monotonic() + 60
    while not file.exists():
        assert process.exitcode is None and time.monotonic() < deadline, log.read_text() if log.exists() else "no log"
        time.sleep(0.01)


def test_a_second_run_is_refused_and_a_second_signal_ends_at_once(tmp_path):
    run_dir, log = tmp_path / "run", tmp_path / "log"
    with start(_train_and_hang, run_dir, tmp_path, {}, log=log) as process:
        wait_for(tmp_path / "hanging", process, log)
        before = lines_of(run_dir)
        with pytest.raises(RunError, match="another run is writing"):
            train(run_dir, resume_from_checkpoint="latest")
        assert lines_of(run_dir) == before  # the refused one has not touched the log
        os.kill(process.pid, signal.SIGTERM)
        process.join(0.3)
        assert process.exitcode is None  # waits for the end of the step
        os.kill(process.pid, signal.SIGINT)
        process.join(20)
        assert process.exitcode == 130
    assert steps_in(run_dir) == [3]


def test_a_run_killed_with_loader_processes_can_be_resumed_at_once(tmp_path):
    """Its loaders live on for some seconds, and must not hold the lock."""
    run_dir, log, changes = tmp_path / "run", tmp_path / "log", {"dataloader_num_workers": 1}
    with start(_train_and_hang, run_dir, tmp_path, changes, log=log) as process:
        wait_for(tmp_path / "hanging", process, log)
        loader = int((tmp_path / "maker").read_text())
        os.kill(loader, signal.SIGSTOP)  # some seconds, however slow this machine is
        os.kill(process.pid, signal.SIGKILL)
        time.sleep(0.5)  # no join: that would wait for the loader, too
        train(run_dir, resume_from_checkpoint="latest", **changes)
        os.kill(loader, 0)  # raises if it no longer lived
    assert steps_in(run_dir)[-1] == 8


def test_a_flipped_byte_makes_it_fall_back_and_say_so(tmp_path, reference, capfd):
    run_dir = tmp_path / "run"
    run(_train_until, run_dir, "SIGKILL", 8, {}, log=tmp_path / "log")
    file = run_dir / "checkpoint-6/model.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    train(run_dir, resume_from_checkpoint="latest")
    said = capfd.readouterr().out
    assert "checkpoint-6 is damaged: model.safetensors has changed" in said
    assert "resumed checkpoint-3" in said
    assert_same_run(run_dir, reference)


def test_resuming_a_finished_run_changes_nothing(tmp_path, reference):
    run_dir = tmp_path / "run"
    train(run_dir)
    (run_dir / "export/model.safetensors").unlink()  # killed in the export
    train(run_dir, resume_from_checkpoint="latest")
    assert_same_run(run_dir, reference)


def test_a_checkpoint_of_before_there_could_be_two_players_resumes(tmp_path, reference):
    run_dir = tmp_path / "run"
    shutil.copytree(reference, run_dir)
    shutil.rmtree(run_dir / "checkpoint-8")
    shutil.rmtree(run_dir / "export")
    found = checkpoint.find(run_dir, "latest")
    tensors = {name: found.tensors(name) for name in ("model", "ema", "optimizer")}
    state = found.state | {"identity": {k: v for k, v in found.state["identity"].items() if k != "other_players"}}
    del state["averaged_steps"]
    checkpoint.save(run_dir, 6, tensors, state, keep=2)
    train(run_dir, resume_from_checkpoint="latest")
    assert_same_run(run_dir, reference)


def test_a_longer_constant_schedule_goes_on_where_the_shorter_one_ended(tmp_path):
    long, short = tmp_path / "long", tmp_path / "short"
    train(long, lr_scheduler="constant", max_train_steps=8)
    train(short, lr_scheduler="constant", max_train_steps=6)
    train(short, lr_scheduler="constant", max_train_steps=8, resume_from_checkpoint="latest")
    assert sha256_of(long / "export/model.safetensors") == sha256_of(short / "export/model.safetensors")


# --- resume with something else ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> Path:
    """A run folder that holds checkpoints of steps 3 and 5."""
    folder = tmp_path_factory.mktemp("loop")
    code, text = run(_train_until, folder / "run", "SIGTERM", 6, {}, log=folder / "log")
    assert code == 143, text
    return folder / "run"


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"learning_rate": 0.02},
        {"train_batch_size": 8},
        {"max_train_steps": 9},
        {"widths": (8, 5)},
        {"options": {"depths": (2, 3)}},
    ],
)
def test_resume_with_another_config_is_refused_by_name(stopped, change):
    before = sorted((path, path.stat().st_mtime_ns) for path in stopped.rglob("*") if path.name != "lock")
    name = "global_batch_size" if "train_batch_size" in change else next(iter(change))
    with pytest.raises(RunError, match=rf"checkpoint-5 .*{name} was .* and is .*--force_resume"):
        train(stopped, resume_from_checkpoint="latest", **change)
    after = sorted((path, path.stat().st_mtime_ns) for path in stopped.rglob("*") if path.name != "lock")
    assert after == before


def test_resume_with_other_data_is_refused(stopped):
    samples = ToySamples()
    samples.data_hash = "other"
    with pytest.raises(RunError, match="data_hash was 'toy' and is 'other'"):
        train(stopped, resume_from_checkpoint="latest", samples=samples)


def test_a_second_start_does_not_overwrite_a_run(stopped):
    with pytest.raises(RunError, match="earlier run.*--resume_from_checkpoint latest"):
        train(stopped)
    assert steps_in(stopped) == [3, 5]


def test_the_same_batch_in_other_parts_is_no_other_config(tmp_path, stopped):
    wide = dataclasses.replace(TOY, train_batch_size=4)
    narrow = dataclasses.replace(TOY, train_batch_size=1, gradient_accumulation_steps=2, output_dir="elsewhere")
    assert identity(wide, world_size=1) == identity(narrow, world_size=2)
    assert identity(wide, world_size=1) != identity(narrow, world_size=1)


def test_a_field_younger_than_the_checkpoint_had_its_default(tmp_path, monkeypatch):
    def older(*args, **kwargs):
        return {key: value for key, value in identity(*args, **kwargs).items() if key != "optimizer"}

    with monkeypatch.context() as patched:
        patched.setattr(loop, "identity", older)
        train(tmp_path / "run", max_train_steps=3, lr_scheduler="constant")
    with pytest.raises(RunError, match="optimizer was 'adamw' and is 'muon'"):
        train(
            tmp_path / "run",
            max_train_steps=6,
            lr_scheduler="constant",
            resume_from_checkpoint="latest",
            optimizer="muon",
        )
    train(tmp_path / "run", max_train_steps=6, lr_scheduler="constant", resume_from_checkpoint="latest")
    assert max(steps_in(tmp_path / "run")) == 6


def test_muon_resumes_exactly(tmp_path):
    train(tmp_path / "whole", optimizer="muon")
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut/checkpoint-8")
    shutil.rmtree(tmp_path / "cut/export")
    train(tmp_path / "cut", optimizer="muon", resume_from_checkpoint="latest")
    assert_same_run(tmp_path / "cut", tmp_path / "whole")


def test_forced_resume_goes_on_and_drops_what_it_left(tmp_path, capfd):
    run_dir = tmp_path / "run"
    train(run_dir, max_train_steps=6, lr_scheduler="constant")
    abandoned = sha256_of(run_dir / "checkpoint-6/model.safetensors")
    train(
        run_dir,
        max_train_steps=6,
        lr_scheduler="constant",
        learning_rate=0.05,
        resume_from_checkpoint="checkpoint-3",
        force_resume=True,
    )
    assert "resuming although learning_rate was 0.01 and is 0.05" in capfd.readouterr().out
    assert sha256_of(run_dir / "checkpoint-6/model.safetensors") != abandoned
    again = checkpoint.find(run_dir, "latest")
    assert (again.step, again.state["identity"]["learning_rate"]) == (6, 0.05)


# --- the same numbers by another road ------------------------------------------------------------------------------


def test_accumulation_equals_the_whole_batch(tmp_path):
    train(tmp_path / "whole", plain=True, logging_steps=1)
    train(tmp_path / "parts", plain=True, logging_steps=1, train_batch_size=1, gradient_accumulation_steps=4)
    whole, parts = (
        [line["loss"] for line in lines_of(tmp_path / name) if "loss" in line] for name in ("whole", "parts")
    )
    assert len(whole) == 8
    assert parts == pytest.approx(whole, abs=1e-6)


def test_loader_processes_and_evaluation_do_not_change_the_training(tmp_path, reference):
    def evaluate(model):
        assert not model.training
        torch.rand(3), np.random.rand(3)
        return {"one": 1.0}

    train(tmp_path / "run", dataloader_num_workers=2, evaluate=evaluate)
    assert_same_run(tmp_path / "run", reference)


def test_another_seed_gives_other_weights(tmp_path, reference):
    train(tmp_path / "run", seed=1)
    assert sha256_of(tmp_path / "run/export/model.safetensors") != sha256_of(reference / "export/model.safetensors")


def test_the_measured_step_before_step_1_leaves_no_trace(tmp_path, monkeypatch, reference):
    for before_step_1 in ("measure_a_step", "try_export"):
        monkeypatch.setattr(loop, before_step_1, lambda *args: None)
    train(tmp_path / "run")
    assert lines_of(tmp_path / "run") == lines_of(reference)
    assert sha256_of(tmp_path / "run/export/model.safetensors") == sha256_of(reference / "export/model.safetensors")


def test_a_clock_that_jumps_back_changes_nothing(tmp_path, monkeypatch, reference):
    days = itertools.count(1)
    monkeypatch.setattr(time, "time", lambda: 2e9 - 86400 * next(days))
    train(tmp_path / "run")
    assert lines_of(tmp_path / "run") == lines_of(reference)


def test_before_step_1_it_says_what_will_be(tmp_path, capfd):
    train(tmp_path / "run", max_train_steps=1)
    said = capfd.readouterr().out
    for words in (
        "0.00M parameters",
        "22 samples",
        "4 per step",
        "s, so the run ends about",
        "peak memory",
        "MiB",
        "a push would take: model.safetensors",
    ):
        assert words in said
    assert not (tmp_path / "run/preflight").exists()
    saved = json.loads((tmp_path / "run/config.json").read_text())
    assert saved["learning_rate"] == TOY.learning_rate
    assert saved["max_train_steps"] == 1


def test_a_tracker_gets_the_numbers(tmp_path):
    train(tmp_path / "run", max_train_steps=2, report_to="tensorboard")
    assert list((tmp_path / "run").rglob("events.out.tfevents.*"))


# --- two processes -------------------------------------------------------------------------------------------------


def _train_as_rank(run_dir: Path, event: str, changes: dict) -> None:
    """Train the plain toy as one of two; in step 4 rank 1 alone gets a SIGTERM, or a batch of NaN, or neither."""
    calls, note = 0, Journal.note

    def note_and_strike(self, step, numbers, **kwargs):
        if step == 4 and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGTERM)  # after the processes have told each other how step 4 went
        note(self, step, numbers, **kwargs)

    if event == "late signal":
        Journal.note = note_and_strike

    def loss(model, batch):
        nonlocal calls
        calls += 1
        if calls == 5 and os.environ["RANK"] == "1":  # with the measured one
            if event == "signal":
                os.kill(os.getpid(), signal.SIGTERM)
            elif event == "NaN":
                batch = batch | {"noisy": batch["noisy"] * torch.nan}
        return toy_loss(model, batch)[0], {}

    train(run_dir, loss, plain=True, train_batch_size=2, **changes)


@pytest.mark.parametrize("event", ["nothing", "signal", "late signal", "NaN"])
def test_two_processes_do_as_one(tmp_path, event):
    """What one of them meets, both act upon in the same step: else they would wait for each other for ever."""
    two, one = tmp_path / "two", tmp_path / "one"
    changes = {"logging_steps": 1}
    with ranks(2, _train_as_rank, two, event, changes, log=tmp_path / "log") as processes:
        for process in processes:
            process.join(60)
        text = "".join((tmp_path / f"log.{rank}").read_text() for rank in range(2))
        assert [process.exitcode for process in processes] == [143 if "signal" in event else 0] * 2, text
    if "signal" in event:
        assert steps_in(two) == [3, 4 if event == "signal" else 5]
        train(two, plain=True, resume_from_checkpoint="latest", **changes)  # one process takes over
    bad = poisoned("loss", {4} if event == "NaN" else set())
    train(one, lambda model, batch: (bad(model, batch)[0], {}), plain=True, **changes)
    for mine, theirs in zip(lines_of(two), lines_of(one), strict=True):
        mine.pop("first_index", None)
        assert mine.keys() - {"grad_norm"} == theirs.keys() - {"grad_norm"}  # NaN there, a number here: not logged
        for key in theirs.keys() & mine.keys():
            assert mine[key] == pytest.approx(theirs[key], abs=1e-5), (mine, theirs)
    ours, alone = load_file(two / "export/model.safetensors"), load_file(one / "export/model.safetensors")
    for key in alone:
        torch.testing.assert_close(ours[key], alone[key], rtol=0, atol=1e-5)


# --- averaged weights ----------------------------------------------------------------------------------------------


def test_the_export_is_the_moving_average(tmp_path):
    """Against the recurrence by hand: a += (1 - d_t)(w_t - a), d_t = min(decay, (1 + s) / (10 + s)), s = t - 1."""
    path, evaluated = [], []

    def loss(model, batch):
        path.append([p.detach().clone() for p in model.parameters()])  # the weights before this step
        return toy_loss(model, batch)

    def evaluate(model):
        evaluated.append([p.detach().clone() for p in model.parameters()])
        return {}

    returned = train(tmp_path / "run", loss, evaluate=evaluate)
    last = checkpoint.find(tmp_path / "run", "latest").tensors("model")
    path = path[1:]  # without the measured step
    names = [name for name, _ in returned.named_parameters()]
    path.append([last[name] for name in names])
    average = [p.clone() for p in path[0]]
    for t, weights in enumerate(path[1:], start=1):
        decay = 0.0 if t == 1 else min(TOY.ema_decay, t / (9 + t))
        average = [a + (1 - decay) * (w - a) for a, w in zip(average, weights, strict=True)]
        if t == 4:
            torch.testing.assert_close(evaluated[1], average)  # [0] is of the untrained model
    exported = load_file(tmp_path / "run/export/model.safetensors")
    for name, parameter, by_hand in zip(names, returned.parameters(), average, strict=True):
        torch.testing.assert_close(exported[name], by_hand)
        assert torch.equal(exported[name], parameter)
        assert not torch.equal(exported[name], last[name])  # not the raw weights
        assert not torch.equal(exported[name], path[0][names.index(name)])  # and it moves


# --- bad batches ---------------------------------------------------------------------------------------------------


def poisoned(kind: str, bad_calls: set[int]):
    """The toy's loss with a non-finite input, loss or gradient in some forward passes; 0 is the measured one."""
    calls = -1

    def loss(model, batch):
        nonlocal calls
        calls += 1
        if calls not in bad_calls:
            return toy_loss(model, batch)
        if kind == "input":
            return toy_loss(model, batch | {"noisy": batch["noisy"] * torch.nan})
        value, numbers = toy_loss(model, batch)
        if kind == "loss":
            return value + torch.inf, numbers
        return value + (model[0].weight[0, 0, 0, 0] * 0).abs().sqrt(), numbers  # 0, with the gradient 0 · inf = NaN

    return loss


@pytest.mark.parametrize("kind", ["input", "loss", "gradient"])
def test_a_bad_batch_is_skipped_and_counted(tmp_path, capfd, kind):
    run_dir, states = tmp_path / "run", []
    loss = poisoned(kind, {3, 6})

    def watched(model, batch):
        states.append({key: value.clone() for key, value in model.state_dict().items()})
        return loss(model, batch)

    train(run_dir, watched, logging_steps=1, checkpointing_steps=3)
    said = capfd.readouterr().out
    assert "step 3 skipped" in said
    assert "step 6 skipped" in said
    order = sample_order(22, 0, 2 * 4, 4).tolist()
    assert str(order)[1:-1] in said  # the samples, by number
    for number in (3, 6):  # a skipped step leaves weights and running statistics as they were
        for key, value in states[number].items():
            assert torch.equal(value, states[number + 1][key]), (number, key)
    for file in [*run_dir.rglob("*.safetensors")]:
        assert all(torch.isfinite(value).all() for value in load_file(file).values()), file
    lines = [line for line in lines_of(run_dir) if "skipped_steps" in line]
    assert [line["skipped_steps"] for line in lines] == [0, 0, 1, 1, 1, 2, 2, 2]
    assert math.isfinite(lines[3]["loss"])


def test_a_mean_over_a_bad_step_is_the_mean_of_the_good_ones(tmp_path):
    train(tmp_path / "all", plain=True, logging_steps=1, loss=poisoned("loss", {3}))
    train(tmp_path / "four", plain=True, logging_steps=4, loss=poisoned("loss", {3}))
    by_step = {line["step"]: line["loss"] for line in lines_of(tmp_path / "all") if "loss" in line}
    first = next(line for line in lines_of(tmp_path / "four") if "loss" in line)
    assert first["loss"] == pytest.approx(np.mean([by_step[step] for step in (1, 2, 4)]))
    assert first["skipped_steps"] == 1  # a count, not a mean of counts
    for line in (tmp_path / "all/metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)  # NaN and Infinity are no JSON


def test_ten_bad_batches_in_a_row_stop_the_run_and_name_the_samples(tmp_path):
    assert MAX_SKIPPED_IN_A_ROW == 10
    run_dir = tmp_path / "run"
    order = sample_order(22, 0, 13 * 4, 4).tolist()
    with pytest.raises(RunError, match="10 steps in a row") as caught:
        train(run_dir, poisoned("input", set(range(5, 40))), max_train_steps=40)
    assert str(order) in str(caught.value)  # those of step 14, the tenth bad one
    for _, folder in checkpoint.found(run_dir):
        assert checkpoint.problem_of(folder) is None
        assert all(torch.isfinite(value).all() for value in load_file(folder / "model.safetensors").values())


def test_nine_bad_batches_and_a_good_one_go_on(tmp_path):
    bad = set(range(2, 11)) | set(range(12, 21))
    train(tmp_path / "run", poisoned("loss", bad), max_train_steps=22, logging_steps=1)
    assert lines_of(tmp_path / "run")[-2]["skipped_steps"] == 18


def test_skipped_steps_survive_a_resume(tmp_path):
    """The count, the row and the average's own step number: stopped after a bad batch equals not stopped."""
    bad = {3, 4, 6}
    train(tmp_path / "whole", poisoned("loss", bad), lr_scheduler="constant")
    train(tmp_path / "parts", poisoned("loss", bad), lr_scheduler="constant", max_train_steps=4)
    later = {number - 4 - 1 for number in bad}  # counted anew from 0: a resumed run has no measured step
    train(tmp_path / "parts", poisoned("loss", later), lr_scheduler="constant", resume_from_checkpoint="latest")
    whole, parts = tmp_path / "whole/export/model.safetensors", tmp_path / "parts/export/model.safetensors"
    assert sha256_of(whole) == sha256_of(parts)
    assert lines_of(tmp_path / "parts")[-2]["skipped_steps"] == 3


# --- the machine says no -------------------------------------------------------------------------------------------


def _train_on_a_full_disk(run_dir: Path) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))  # no file grows beyond 2 kB: the first save fails
    train(run_dir, resume_from_checkpoint="latest")


def test_a_full_disk_stops_with_a_reason_and_loses_nothing(tmp_path, stopped):
    run_dir = tmp_path / "run"
    shutil.copytree(stopped, run_dir)
    code, text = run(_train_on_a_full_disk, run_dir, log=tmp_path / "log")
    assert code == 1
    assert steps_in(run_dir) == [3, 5]
    assert checkpoint.find(run_dir, "latest", say=pytest.fail).step == 5


def test_a_file_in_place_of_the_output_dir(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(RunError, match=r"can't be written.*--output_dir"):
        train(tmp_path / "run")


def test_an_empty_training_set(tmp_path):
    with pytest.raises(RunError, match="empty"):
        train(tmp_path / "run", samples=ToySamples(0))


def _train_in_bf16_without_bf16_units(run_dir: Path) -> None:
    torch.ops.mkldnn._is_mkldnn_bf16_supported = lambda: False  # as on a CPU with no more than AVX2
    train(run_dir, mixed_precision="bf16")


def test_bf16_on_a_cpu_without_it_is_refused_with_the_reason(tmp_path):
    code, text = run(_train_in_bf16_without_bf16_units, tmp_path / "run", log=tmp_path / "log")
    assert code == 1
    assert "--mixed_precision bf16: this CPU (" in text
    assert not (tmp_path / "run").exists()


# --- command line --------------------------------------------------------------------------------------------------

TOYS = {"tiny": TOY, "wide": dataclasses.replace(TOY, widths=(16, 8), max_train_steps=99)}


def test_flags_override_the_preset():
    cfg = parse(TOYS, ["--learning_rate", "0.5", "--preset", "wide", "--widths", "3", "4", "5", "--output_dir=x"])
    assert cfg == dataclasses.replace(TOYS["wide"], learning_rate=0.5, widths=(3, 4, 5), output_dir="x")
    assert parse(TOYS, ["--preset=wide"]) == TOYS["wide"]
    assert parse(TOYS, []) == TOYS["tiny"]


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--learning_rat", "0.1"], "--learning_rate"),  # neither taken as a prefix nor ignored
        (["--no_such_flag"], "no_such_flag"),
        (["--train_data_dir", "x"], "here it is --dataset_name"),  # habits from the examples of diffusers
        (["--num-train-epochs=2"], "here it is --max_train_steps"),
        (["--mixed_precision", "fp16"], "'bf16')"),
        (["--preset", "huge"], "tiny, wide"),
        (["--preset"], "tiny, wide"),
        (["--max_train_steps", "many"], "max_train_steps"),
        (["--max_train_steps", "0"], "--max_train_steps must be at least 1"),
        (["--checkpoints_total_limit", "1"], "at least 2"),
        (["--learning_rate", "nan"], "--learning_rate"),
        (["--learning_rate", "-1"], "--learning_rate"),
        (["--max_grad_norm", "nan"], "--max_grad_norm"),
        (["--max_grad_norm", "0"], "--max_grad_norm"),
        (["--lr_warmup_steps", "-1"], "--lr_warmup_steps"),
        (["--ema_decay", "1"], "--ema_decay"),
        (["--seed", "-1"], "--seed"),
        (["--push_to_hub"], "--hub_model_id"),
        (["stray"], "stray"),
    ],
)
def test_a_wrong_flag_is_an_error_that_says_which(capsys, argv, says):
    with pytest.raises(SystemExit) as caught:
        parse(TOYS, argv)
    assert caught.value.code == 2
    printed = capsys.readouterr()
    assert says in printed.err + printed.out
    assert "Traceback" not in printed.err


def test_a_dry_run_prints_the_config_and_stops(capsys):
    with pytest.raises(SystemExit) as caught:
        parse(TOYS, ["--preset", "wide", "--dry_run"])
    assert caught.value.code == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["max_train_steps"] == 99
    assert printed["widths"] == [16, 8]


def test_the_screen_gets_what_differs_from_the_preset_alone(capsys):
    parse(TOYS, ["--preset", "wide", "--seed", "7", "--learning_rate", "0.5"])
    assert capsys.readouterr().out == "preset wide: seed 7, learning_rate 0.5\n"
    parse(TOYS, ["--preset", "wide"])
    assert capsys.readouterr().out == "preset wide\n"


def test_defaults_are_as_a_checkpoint_gives_them_back():
    """Also those that a dataclass makes anew each time, and tuples, which come back as lists."""

    @dataclasses.dataclass(frozen=True)
    class Young(TrainConfig):
        args: dict[str, int] = dataclasses.field(default_factory=dict)
        sides: tuple[int, ...] = (1, 2)

    defaults = defaults_of(Young(seed=7))
    assert (defaults["args"], defaults["sides"], defaults["seed"]) == ({}, [1, 2], 0)
    assert defaults | {"global_batch_size": 64} == defaults | identity(Young())
