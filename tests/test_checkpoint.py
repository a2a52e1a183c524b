"""A checkpoint is complete or absent, whenever the process dies; a damaged one is seen and passed over."""

import json
import os
import resource
import shutil
import signal
import stat
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch
from children import run, start

from training import checkpoint, machine
from training.checkpoint import RunError


def tensors_of(step: int) -> dict[str, dict[str, torch.Tensor]]:
    """What a checkpoint of this step holds in these tests."""
    draw = torch.Generator().manual_seed(step)
    return {
        "model": {"weight": torch.randn(8, 8, generator=draw), "steps": torch.tensor(step)},
        "ema": {"0": torch.randn(8, 8, generator=draw).bfloat16()},
    }


def save(run_dir: Path, step: int, *, keep: int = 2) -> Path:
    return checkpoint.save(run_dir, step, tensors_of(step), {"note": f"step {step}"}, keep=keep)


def assert_is(found: checkpoint.Checkpoint | None, step: int) -> None:
    """The checkpoint found is that of `step`, to the bit."""
    assert found is not None
    assert (found.step, found.state) == (step, {"note": f"step {step}"})
    for name, group in tensors_of(step).items():
        loaded = found.tensors(name)
        assert loaded.keys() == group.keys()
        for key, tensor in group.items():
            assert loaded[key].dtype == tensor.dtype
            assert torch.equal(loaded[key], tensor)


def steps_in(run_dir: Path) -> list[int]:
    return [step for step, _ in checkpoint.found(run_dir)]


def test_what_is_saved_is_what_is_found(tmp_path):
    folder = save(tmp_path, 2)
    assert_is(checkpoint.find(tmp_path, "latest"), 2)
    assert_is(checkpoint.find(tmp_path, "checkpoint-2"), 2)
    assert_is(checkpoint.find(tmp_path, str(folder)), 2)
    names = {path.name for path in folder.iterdir()}
    assert names == {"ema.safetensors", "manifest.json", "model.safetensors", "state.json"}  # nothing pickled
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o644}  # safetensors alone leaves 0600
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["step"] == 2
    assert set(manifest["files"]) == names - {"manifest.json"}


def test_newest_is_by_number_and_old_ones_go(tmp_path):
    for step in (2, 9, 10, 100):
        save(tmp_path, step)
    assert steps_in(tmp_path) == [10, 100]
    assert_is(checkpoint.find(tmp_path, "latest"), 100)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-100"]


def test_nothing_to_resume(tmp_path):
    assert checkpoint.find(tmp_path, "latest") is None
    assert checkpoint.find(tmp_path / "absent", "latest") is None
    with pytest.raises(RunError, match="no such folder.*latest"):
        checkpoint.find(tmp_path, "checkpoint-7")


# --- killed while saving -------------------------------------------------------------------------------------------


def _die_at_line(line: int) -> None:
    """Send SIGKILL to this very process before the given line of checkpoint.py or machine.py (counted as they run)."""
    seen, where = 0, (checkpoint.__file__, machine.__file__)

    def trace(frame, event, _):
        nonlocal seen
        if frame.f_code.co_filename not in where:
            return None
        if event == "line":
            seen += 1
            if seen == line:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)


def _save_killed_at_every_line(before: Path, parent: Path) -> None:
    """In folder <line> of parent: a copy of `before`, and a save of step 4 killed at that line; the last is not."""
    for line in range(1, 1000):
        run_dir = parent / f"{line:03d}"
        shutil.copytree(before, run_dir)
        pid = os.fork()
        if pid == 0:
            _die_at_line(line)
            save(run_dir, 4)
            os._exit(0)
        if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0:
            return


@pytest.fixture
def in_memory():
    """A folder in memory where there is such a thing: a thousand fsyncs take their time on a disk."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as folder:
        yield Path(folder)


def test_killed_at_any_line_of_a_save(in_memory, tmp_path):
    """SIGKILL before every single line that saving runs: what is found afterwards is whole, and saving works again."""
    before, parent = in_memory / "before", in_memory / "runs"
    before.mkdir()
    save(before, 1)
    save(before, 2)
    code, text = run(_save_killed_at_every_line, before, parent, log=tmp_path / "log")
    assert code == 0, text
    outcomes, leftovers = [], 0
    for run_dir in sorted(parent.iterdir()):
        leftovers += len(list(run_dir.glob("*.tmp")))
        found = checkpoint.find(run_dir, "latest", say=pytest.fail)  # no damaged folder either: absent or complete
        outcomes.append(found.step)
        assert_is(found, found.step)
        assert len(steps_in(run_dir)) >= 2  # the fallback is there at every moment
        save(run_dir, 4)
        assert_is(checkpoint.find(run_dir, "latest", say=pytest.fail), 4)
        assert sorted(path.name for path in run_dir.iterdir()) == ["checkpoint-2", "checkpoint-4"]
    assert outcomes == sorted(outcomes)  # once it is there, it stays there
    assert set(outcomes) == {2, 4}
    assert min(leftovers, len(outcomes)) > 50  # the kills did fall into the middle of the save


def test_leftovers_of_a_killed_save_go_with_the_next_one(tmp_path):
    save(tmp_path, 2)
    (tmp_path / "checkpoint-3.tmp").mkdir()
    (tmp_path / "checkpoint-3.tmp" / "model.safetensors").write_bytes(b"half")
    assert steps_in(tmp_path) == [2]
    save(tmp_path, 4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-2", "checkpoint-4"]


# --- damage --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.safetensors", "ema.safetensors", "state.json", "manifest.json"])
def test_a_flipped_byte_is_seen_wherever_it_is(tmp_path, name):
    """A flip of one bit of any byte: passed over by name, or without effect on what is loaded (white space)."""
    save(tmp_path, 2)
    file = save(tmp_path, 4) / name
    whole, passed_over = file.read_bytes(), 0
    for place in range(len(whole)):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << place % 8)]) + whole[place + 1 :])
        said = []
        found = checkpoint.find(tmp_path, "latest", say=said.append)
        assert_is(found, found.step)
        if found.step == 2:
            passed_over += 1
            assert "checkpoint-4 is damaged" in said[0]
    assert passed_over == len(whole) or (name == "manifest.json" and passed_over > 0.8 * len(whole))


@pytest.mark.parametrize("name", ["model.safetensors", "state.json", "manifest.json"])
def test_a_short_or_missing_file_is_seen(tmp_path, name):
    save(tmp_path, 2)
    file = save(tmp_path, 4) / name
    whole = file.read_bytes()
    for length in (None, 0, 1, 8, len(whole) // 2, len(whole) - 1):
        file.unlink() if length is None else file.write_bytes(whole[:length])
        said = []
        assert_is(checkpoint.find(tmp_path, "latest", say=said.append), 2)
        assert "checkpoint-4 is damaged" in said[0]
        with pytest.raises(RunError, match="can't resume from checkpoint-4"):  # asked for by name: no silent change
            checkpoint.find(tmp_path, "checkpoint-4")
        file.write_bytes(whole)


@pytest.mark.parametrize(
    "manifest", ["[]", "{}", '{"step": 4, "files": []}', '{"step": 4, "files": {"state.json": 1}}']
)
def test_a_manifest_of_another_shape_is_damage(tmp_path, manifest):
    save(tmp_path, 2)
    (save(tmp_path, 4) / "manifest.json").write_text(manifest)
    assert_is(checkpoint.find(tmp_path, "latest", say=lambda _: None), 2)


def test_all_damaged_is_an_error_and_not_a_fresh_start(tmp_path):
    for step in (2, 4):
        (save(tmp_path, step) / "state.json").write_text("{}")
    said = []
    with pytest.raises(RunError, match="every checkpoint .* damaged"):
        checkpoint.find(tmp_path, "latest", say=said.append)
    assert [line.split()[0] for line in said] == ["checkpoint-4", "checkpoint-2"]


def test_a_damaged_one_is_replaced_and_does_not_count_as_a_fallback(tmp_path):
    save(tmp_path, 2)
    (save(tmp_path, 8) / "state.json").write_text("{}")
    save(tmp_path, 4)  # the run went back to 2 and on to 4
    assert steps_in(tmp_path) == [2, 4]
    save(tmp_path, 8)
    assert_is(checkpoint.find(tmp_path, "latest", say=pytest.fail), 8)


def test_a_save_replaces_what_another_configuration_left_at_that_step(tmp_path):
    """--force_resume from an older checkpoint: the later ones are of a run that was left."""
    for step in (2, 4, 6):
        checkpoint.save(tmp_path, step, {"model": {"weight": torch.zeros(2)}}, {"note": "left"}, keep=3)
    save(tmp_path, 4)
    assert_is(checkpoint.find(tmp_path, "latest"), 4)
    assert steps_in(tmp_path) == [2, 4]


# --- disk, folder, lock --------------------------------------------------------------------------------------------


def _save_with_little_room(run_dir: Path, limit_bytes: int) -> None:
    """Save step 6 where no file may grow beyond a limit: the write fails half-way, as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))
    try:
        checkpoint.save(run_dir, 6, {"model": {"weight": torch.ones(64, 1024)}}, {}, keep=2)  # 256 KiB
    except RunError as error:
        # Nothing can be printed to a file any more: say by the exit code whether the message is the right one.
        sys.exit(3 if "older checkpoints are untouched" in str(error) and "checkpoint-6" in str(error) else 4)


@pytest.mark.parametrize("limit_bytes", [0, 4096, 200 * 1024])
def test_a_failed_write_leaves_the_old_checkpoints(tmp_path, limit_bytes):
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    save(run_dir, 2)
    save(run_dir, 4)
    code, _ = run(_save_with_little_room, run_dir, limit_bytes, log=tmp_path / "log")
    assert code == 3
    assert sorted(path.name for path in run_dir.iterdir()) == ["checkpoint-2", "checkpoint-4"]
    assert_is(checkpoint.find(run_dir, "latest", say=pytest.fail), 4)


def test_a_disk_that_is_nearly_full_is_seen_before_writing(tmp_path, monkeypatch):
    save(tmp_path, 2)
    usage = checkpoint.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda _: usage._replace(free=100))
    with pytest.raises(RunError, match=r"0 MiB free.*resume_from_checkpoint latest"):
        save(tmp_path, 4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-2"]


def _hold(run_dir: Path) -> None:
    with checkpoint.locked(run_dir):
        (run_dir / "held").touch()
        time.sleep(60)


def test_the_lock_is_held_by_one_process_and_dies_with_it(tmp_path):
    with start(_hold, tmp_path, log=tmp_path / "log") as holder:
        deadline = time.monotonic() + 60
        while not (tmp_path / "held").exists():
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.02)
        with pytest.raises(RunError, match="another run is writing"), checkpoint.locked(tmp_path):
            pass
        os.kill(holder.pid, signal.SIGKILL)
        holder.join()
    with checkpoint.locked(tmp_path):
        pass
    with checkpoint.locked(tmp_path):
        pass


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "taken").write_text("a file")
    for folder in (tmp_path / "taken", tmp_path / "taken" / "below"):
        with pytest.raises(RunError, match=r"can't be written: .*--output_dir"), checkpoint.locked(folder):
            pass


# --- the optimiser -------------------------------------------------------------------------------------------------


def test_adamw_goes_on_to_the_bit(tmp_path):
    def step(model, optimizer, number):
        torch.manual_seed(number)
        model(torch.randn(4, 6)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    def made():
        torch.manual_seed(0)
        model = torch.nn.Linear(6, 3)
        groups = [{"params": [model.weight]}, {"params": [model.bias], "weight_decay": 0.0}]
        return model, torch.optim.AdamW(groups, lr=1e-2)

    model, optimizer = made()
    for number in range(6):
        step(model, optimizer, number)
        if number == 2:
            tensors = {"model": model.state_dict(), "optimizer": checkpoint.optimizer_tensors(optimizer)}
            checkpoint.save(tmp_path, 3, tensors, {}, keep=2)
    again, fresh = made()
    found = checkpoint.find(tmp_path, "latest")
    again.load_state_dict(found.tensors("model"))
    checkpoint.load_optimizer_tensors(fresh, found.tensors("optimizer"))
    for number in range(3, 6):
        step(again, fresh, number)
    for one, two in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, two)
