"""Two players in one run, a generator and a critic of points in the plane: exact resume, each one's own weights alone.

Where a process is meant, it is a real one, killed by a real signal.
"""

import dataclasses
import json
import math
import os
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from children import ranks, run
from safetensors.torch import load_file, save_file
from torch.nn.functional import softplus

from training import checkpoint
from training.checkpoint import RunError, sha256_of
from training.config import TrainConfig
from training.loop import fit
from training.optim import Learner, Player

TIMES = {"images_per_second", "seconds"}  # of a line in metrics.jsonl: what may differ between equal runs
CENTRE = torch.tensor([2.0, -1.0])
GAN = TrainConfig(
    cpu=True,
    max_train_steps=8,
    train_batch_size=4,
    learning_rate=1e-2,
    lr_warmup_steps=2,
    ema_decay=0.6,
    checkpointing_steps=3,
    validation_steps=4,
    logging_steps=1,
)
CRITIC = dataclasses.replace(GAN, learning_rate=3e-2, adam_beta1=0.0, ema_decay=0.3, lr_scheduler="constant")


class Points:
    """22 points about CENTRE, each with fresh noise to make another one of."""

    data_hash = "points"

    def __init__(self):
        self.points = CENTRE + 0.3 * torch.randn(22, 2, generator=torch.Generator().manual_seed(1))

    def __len__(self) -> int:
        return len(self.points)

    def sample(self, index: int, draw: torch.Generator) -> dict:
        return {"real": self.points[index], "noise": torch.randn(2, generator=draw)}


def network(wide: int, out: int, *, plain: bool) -> torch.nn.Module:
    """Two layers with all between them that is hard to resume (`plain` leaves that out)."""
    middle = [] if plain else [torch.nn.BatchNorm1d(wide), torch.nn.Dropout(0.2)]
    return torch.nn.Sequential(torch.nn.Linear(2, wide), *middle, torch.nn.SiLU(), torch.nn.Linear(wide, out))


def two_players(*, plain: bool = False, heard=lambda who, modules: None, poison=lambda who: 1.0) -> list[Player]:
    """Goodfellow 2014's game. heard(who, modules) is called in each forward pass, poison(who) multiplies its loss."""
    torch.manual_seed(0)
    modules = {"": network(8, 2, plain=plain), "critic": network(6, 1, plain=plain)}
    generator, critic = modules.values()

    def fool(model, batch):
        heard("", modules)
        fakes = model(batch["noise"])
        return softplus(-critic(fakes)).mean() * poison(""), {"spread": fakes.detach().std()}

    def tell_apart(model, batch):
        heard("critic", modules)
        with torch.no_grad():
            fakes = generator(batch["noise"])
        value = softplus(-model(batch["real"])).mean() + softplus(model(fakes)).mean()
        return value * poison("critic"), {"sure": value.item()}

    return [Player(generator, fool), Player(critic, tell_apart, cfg=CRITIC, name="critic")]


def export(model, folder: Path, run: dict) -> list[str]:
    folder.mkdir()
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, folder / "model.safetensors")
    return ["model.safetensors"]


def play(run_dir: Path, players: list[Player] | None = None, **changes) -> torch.nn.Module:
    cfg = dataclasses.replace(GAN, **changes)
    players = players or two_players()
    return fit(players, Points(), cfg, run_dir=run_dir, evaluate=lambda model: {"one": 1.0}, export=export)


def lines_of(run_dir: Path) -> list[dict]:
    """metrics.jsonl without the times."""
    lines = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


def weights_in(folder: Path) -> dict[str, str]:
    return {path.name: sha256_of(path) for path in sorted(folder.glob("*.safetensors"))}


def assert_same_run(run_dir: Path, reference: Path) -> None:
    """Same exported bytes, same last checkpoint of both players, same log."""
    for part in ("export", "checkpoint-8"):
        assert weights_in(run_dir / part) == weights_in(reference / part) != {}
    assert lines_of(run_dir) == lines_of(reference)


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
    run_dir = tmp_path_factory.mktemp("players") / "reference"
    play(run_dir)
    return run_dir


def _play_until(run_dir: Path, name: str, who: str, number: int) -> None:
    """Play, and in the given forward pass of a player send a signal to this very process."""
    seen = 0

    def strike(whose: str, _modules) -> None:
        nonlocal seen
        seen += whose == who
        if whose == who and seen == number:
            os.kill(os.getpid(), getattr(signal, name))

    play(run_dir, two_players(heard=strike))


@pytest.mark.parametrize(
    ("name", "who", "number", "kept"),  # the measured step counts as a forward pass
    [
        ("SIGKILL", "critic", 6, 3),  # in step 5, of which the generator's half is done
        ("SIGKILL", "", 8, 6),
        ("SIGKILL", "critic", 2, None),  # in step 1
        ("SIGTERM", "critic", 6, 5),  # saved at the end of step 5
    ],
)
def test_killed_and_resumed_equals_undisturbed(tmp_path, reference, name, who, number, kept):
    run_dir = tmp_path / "run"
    code, text = run(_play_until, run_dir, name, who, number, log=tmp_path / "log")
    assert code == (143 if name == "SIGTERM" else -signal.SIGKILL), text
    found = checkpoint.find(run_dir, "latest")
    assert (found and found.step) == kept
    play(run_dir, resume_from_checkpoint="latest")
    assert_same_run(run_dir, reference)


def test_a_checkpoint_names_the_files_of_the_first_player_as_ever(reference):
    whose = {f"{what}{who}.safetensors" for what in ("model", "ema", "optimizer") for who in ("", "-critic")}
    assert weights_in(reference / "checkpoint-8").keys() == whose
    last = checkpoint.find(reference, "latest")
    assert last.tensors("model")["4.weight"].shape == (2, 8) and last.tensors("model-critic")["4.weight"].shape == (
        1,
        6,
    )
    raw, averaged = last.tensors("model-critic"), last.tensors("ema-critic")
    assert averaged["0"].shape == raw["0.weight"].shape and not torch.equal(averaged["0"], raw["0.weight"])


def test_each_has_its_own_numbers_rate_and_schedule(reference):
    lines = [line for line in lines_of(reference) if "loss" in line]
    assert len(lines) == 8
    for line in lines:
        assert {"loss", "grad_norm", "spread", "critic/loss", "critic/grad_norm", "critic/sure"} <= line.keys()
    assert [line["critic/lr"] for line in lines] == pytest.approx([0.015, *[0.03] * 7])
    assert lines[0]["lr"] == pytest.approx(0.005) and 0 < lines[-1]["lr"] < 0.001


def test_a_turn_moves_the_player_alone(tmp_path):
    """The generator's loss goes through the critic, and leaves nothing there; nor is anything left frozen."""
    seen = []

    def look(who, modules):
        state = {name: [p.detach().clone() for p in module.parameters()] for name, module in modules.items()}
        seen.append((who, state))
        for name, module in modules.items():
            assert all(p.grad is None for p in module.parameters()), "of the turn before"
            assert all(p.requires_grad is (name == who) for p in module.parameters())

    players = two_players(heard=look)
    play(tmp_path / "run", players)
    turns = seen[2:]  # without the measured step
    assert [who for who, _ in turns] == ["", "critic"] * 8
    for (who, before), (_, after) in zip(turns, turns[1:], strict=False):
        for name in ("", "critic"):
            same = [torch.equal(old, new) for old, new in zip(before[name], after[name], strict=True)]
            assert not all(same) if name == who else all(same), (who, name)
    assert all(p.requires_grad for player in players for p in player.module.parameters())


def test_all_are_averaged_where_the_first_is_looked_at_and_in_the_end(tmp_path):
    players, seen = two_players(), []
    generator, critic = (player.module for player in players)

    def evaluate(model):
        assert model is generator and not critic.training
        seen.append([p.detach().clone() for p in critic.parameters()])
        return {"one": 1.0}

    returned = fit(players, Points(), GAN, run_dir=tmp_path / "run", evaluate=evaluate, export=export)
    assert returned is generator
    last = checkpoint.find(tmp_path / "run", "latest")
    for number, p in enumerate(critic.parameters()):
        assert torch.equal(p, last.tensors("ema-critic")[str(number)]) and torch.equal(p, seen[-1][number])


def test_one_sits_a_turn_out_and_the_other_plays_on(tmp_path, capfd):
    """A skipped turn leaves the running statistics of both as they were; each one's average counts its own steps."""
    turns, states = {"": -1, "critic": -1}, []

    def poison(who: str) -> float:
        turns[who] += 1
        return math.nan if (who, turns[who]) in {("critic", 3), ("", 5)} else 1.0

    def look(who, modules):
        states.append({name: {k: v.clone() for k, v in m.state_dict().items()} for name, m in modules.items()})

    play(tmp_path / "whole", two_players(poison=poison, heard=look))
    said = capfd.readouterr().out
    assert "step 3 of critic skipped" in said and "step 5 skipped" in said
    for turn in (2 * 3 + 1, 2 * 5):  # the measured step is the first pair
        for name in ("", "critic"):
            for key, value in states[turn][name].items():
                assert torch.equal(value, states[turn + 1][name][key]), (turn, name, key)
    lines = [line for line in lines_of(tmp_path / "whole") if "skipped_steps" in line]
    assert [line["skipped_steps"] for line in lines] == [0, 0, 1, 1, 2, 2, 2, 2]
    assert checkpoint.find(tmp_path / "whole", "latest").state["averaged_steps"] == [7, 7]

    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut/checkpoint-8")
    shutil.rmtree(tmp_path / "cut/export")
    play(tmp_path / "cut", resume_from_checkpoint="latest")
    assert_same_run(tmp_path / "cut", tmp_path / "whole")


def test_another_team_is_refused(tmp_path, reference):
    run_dir = tmp_path / "run"
    shutil.copytree(reference, run_dir)
    alone = [dataclasses.replace(two_players()[0])]
    with pytest.raises(RunError, match=r"other_players was \['critic'\] and is \[\]"):
        play(run_dir, alone, resume_from_checkpoint="latest")
    play(tmp_path / "one", alone)
    with pytest.raises(RunError, match=r"other_players was \[\] and is \['critic'\]"):
        play(tmp_path / "one", resume_from_checkpoint="latest")
    with pytest.raises(RunError, match=r"no model-critic\.safetensors"):
        play(tmp_path / "one", resume_from_checkpoint="latest", force_resume=True)


def test_players_need_names_to_tell_them_apart(tmp_path):
    first, second = two_players()
    for players in ([], [first, dataclasses.replace(second, name="")], [second, second]):
        with pytest.raises(ValueError, match="the players are called"):
            fit(players, Points(), GAN, run_dir=tmp_path / "run")


def _play_as_rank(run_dir: Path) -> None:
    """Play the plain game as one of two."""
    play(run_dir, two_players(plain=True), train_batch_size=2)


def test_two_processes_do_as_one(tmp_path):
    two, one = tmp_path / "two", tmp_path / "one"
    with ranks(2, _play_as_rank, two, log=tmp_path / "log") as processes:
        for process in processes:
            process.join(60)
        text = "".join((tmp_path / f"log.{rank}").read_text() for rank in range(2))
        assert [process.exitcode for process in processes] == [0, 0], text
    play(one, two_players(plain=True))
    theirs, ours = checkpoint.find(two, "latest"), checkpoint.find(one, "latest")
    for name in ("model", "ema", "model-critic", "ema-critic"):
        for key, value in ours.tensors(name).items():
            torch.testing.assert_close(theirs.tensors(name)[key], value, rtol=0, atol=1e-4)
    for mine, other in zip(lines_of(two), lines_of(one), strict=True):
        for key in mine.keys() & {"loss", "grad_norm", "critic/loss", "critic/lr"}:
            assert mine[key] == pytest.approx(other[key], abs=1e-4), (key, mine, other)


def test_the_game_is_worth_playing(tmp_path):
    """The generator's points come to lie where the real ones do."""
    noise = torch.randn(256, 2, generator=torch.Generator().manual_seed(2))
    players = two_players(plain=True)
    before = (players[0].module(noise).mean(0) - CENTRE).norm().item()
    model = play(
        tmp_path / "run",
        players,
        max_train_steps=250,
        train_batch_size=16,
        ema_decay=0.9,
        logging_steps=50,
        checkpointing_steps=250,
        validation_steps=250,
    )
    after = (model(noise).mean(0) - CENTRE).norm().item()
    assert before > 1.5 and after < 0.5
    assert not load_file(tmp_path / "run/export/model.safetensors").keys() - model.state_dict().keys()


class Twice(torch.nn.Module):
    """One layer that stands in two places, and one that is its own."""

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(2, 2)
        self.again, self.own = self.first, torch.nn.Linear(2, 2)


def test_weights_of_two_names_are_kept_once_and_come_back():
    learners = [Learner(Player(Twice(), softplus), 0, GAN, Accelerator(cpu=True)) for _ in range(2)]
    tensors = learners[0].tensors()
    assert set(tensors["model"]) == {"first.weight", "first.bias", "own.weight", "own.bias"}
    assert not any(value.requires_grad for value in tensors["model"].values())
    state = {"skipped": 0, "averaged_steps": [0]}
    learners[1].load(SimpleNamespace(tensors=tensors.__getitem__, step=0, state=state))
    before, after = (learner.bare for learner in learners)
    assert after.again is after.first and torch.equal(after.again.weight, before.first.weight)
    assert torch.equal(after.own.bias, before.own.bias) and after.first.weight.requires_grad
    del tensors["model"]["own.bias"]
    with pytest.raises(RuntimeError, match="own.bias"):  # what is missing is said, as before
        learners[1].load(SimpleNamespace(tensors=tensors.__getitem__, step=0, state=state))
