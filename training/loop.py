"""The one training loop. Letters are those of training/order.py: B, A, W, G."""

import contextlib
import dataclasses
import math
import shutil
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import LoggerType

from training import checkpoint, machine
from training.checkpoint import Checkpoint, RunError
from training.config import TrainConfig, defaults_of, identity
from training.journal import Journal, Progress, hardware_of
from training.optim import Learner, Player, alone, ema_weights, rates_of, team_of
from training.order import Order, Samples

MAX_SKIPPED_IN_A_ROW = 10

Evaluate = Callable[[torch.nn.Module], dict[str, float]]
DrawSamples = Callable[[torch.nn.Module], Any]
Export = Callable[[torch.nn.Module, Path, dict], list[str]]


def fit(
    players: Sequence[Player],
    samples: Samples,
    cfg: TrainConfig,
    *,
    run_dir: Path | str,
    evaluate: Evaluate | None = None,
    draw_samples: DrawSamples | None = None,
    export: Export | None = None,
) -> torch.nn.Module:
    """Train for cfg.max_train_steps optimiser steps; the first player's module comes back with averaged (EMA) weights.

    players: see `Player`. In every step they play in turn, on the same batches, each against what the one before has
    become. The first is what is evaluated and exported; meanwhile the others have their averaged weights, too.
    samples: see `Samples`; batches are its samples collated by torch's default rule.
    evaluate(ema_model) -> {name: number} and draw_samples(ema_model) -> PIL image: every cfg.validation_steps steps.
    export(ema_model, folder, run) -> names of the files that would be pushed: tried on the untrained model before
    step 1, as evaluate is, so that nothing fails after hours, and called with the trained one at the end
    (folder = run_dir/export). `run` = {"steps", "images_seen", "hours", "hardware", "seed", …}.

    Raises RunError (another run holds the folder, resume with another configuration, disk full, ten non-finite
    batches in a row). SIGTERM and SIGINT save and exit with 143 and 130; a second signal exits at once.
    """
    run, accelerator = Path(run_dir), start_accelerator(players, cfg, run_dir)
    with checkpoint.locked(run) if accelerator.is_main_process else contextlib.nullcontext():
        accelerator.wait_for_everyone()
        order = Order(samples, cfg, accelerator.device, accelerator.process_index, accelerator.num_processes)
        team, journal = team_of(players, cfg, accelerator), Journal(run, cfg, accelerator)
        progress = start_or_resume(team, order, journal)
        journal.begin(progress)
        loader = order.batches(progress.step)
        if progress.step == 0:
            measure_a_step(team, order, journal)
            try_export(export, team[0].bare, journal, journal.facts(progress, order))
            validate(team, journal, 0, evaluate, draw_samples)  # the curve starts here, and it is known to work
        with stop_signals(order.world) as stop, journal.bar(progress) as bar:
            batches = iter(loader)
            while progress.step < cfg.max_train_steps:
                began = time.perf_counter()
                numbers, skipped = one_step(team, batches, order, accelerator, progress.step, stop)
                progress.count(numbers, time.perf_counter() - began, skipped=bool(skipped))
                look_at_skipped(skipped, progress, order, journal)
                last, told = progress.step == cfg.max_train_steps, stop.agreed
                if progress.step % cfg.logging_steps == 0 or last:
                    journal.note_training(progress, rates_of(team, progress.step - 1), order.whole, bar)
                bar.update()
                if progress.step % cfg.validation_steps == 0 or last:
                    validate(team, journal, progress.step, evaluate, draw_samples)
                if progress.step % cfg.checkpointing_steps == 0 or last or told:
                    save(team, order, journal, progress)
                if told:
                    journal.say(
                        f"signal {told}: saved step {progress.step}; go on with --resume_from_checkpoint latest"
                    )
                    raise SystemExit(128 + told)
        for learner in team:
            learner.keep_average()
        if accelerator.is_main_process and export:
            shutil.rmtree(run / "export", ignore_errors=True)
            export(team[0].bare, run / "export", journal.facts(progress, order))
            journal.say(f"exported the averaged weights to {run / 'export'}")
        journal.end()
        return team[0].bare


# --- before step 1 -------------------------------------------------------------------------------------------------


def start_accelerator(players: Sequence[Player], cfg: TrainConfig, run_dir: Path | str) -> Accelerator:
    """The accelerator of a run, and the models told how to attend on it. Raises RunError where it has no bf16."""
    check_tracker(cfg.tracker)
    accelerator = Accelerator(
        mixed_precision=cfg.mixed_precision, cpu=cfg.cpu, log_with=cfg.tracker, project_dir=str(run_dir)
    )
    check_precision(cfg.mixed_precision, accelerator.device)
    if accelerator.device.type == "cpu":
        for player in players:
            plain_attention(player.module)
    return accelerator


def check_tracker(name: str | None) -> None:
    """Refuse a tracker that accelerate doesn't know, or whose package isn't here. Raises RunError with the choices."""
    here = sorted(str(one) for one in get_available_trackers())
    if name in (None, "all", *here):
        return
    known = sorted(str(one) for one in LoggerType if one != LoggerType.ALL)
    if name in known:
        others = " or ".join([*here, "none"])
        raise RunError(f"--report_to {name}: its package is not installed; pip install {name}, or take {others}")
    raise RunError(f"--report_to {name} is no tracker: choose one of {', '.join(known)}, all, none")


def check_precision(mixed_precision: str, device: torch.device) -> None:
    """Refuse bf16 on a CPU that would emulate it (75 times slower, measured). Raises RunError with the reason."""
    if mixed_precision == "bf16" and device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        capability = torch.backends.cpu.get_cpu_capability()
        raise RunError(
            f"--mixed_precision bf16: this CPU ({capability}) has no bf16 units and would be far slower than in fp32; "
            "leave the flag out"
        )


def plain_attention(model: torch.nn.Module) -> None:
    """Let models of transformers, timm and diffusers attend by plain matrix products, not by PyTorch's fused attention.

    Its backward pass is slow in bf16 on a CPU: without it a step takes 0.65 (a Swin of transformers with windows of
    4), 0.61 (the classifier's ViT) or 0.76 (the U-Net of text to image) of the time. It isn't saved.
    """
    for part in model.modules():
        if attend_by := getattr(part, "set_attn_implementation", None):
            attend_by("eager")
        if hasattr(part, "fused_attn"):
            setattr(part, "fused_attn", False)  # noqa: B010 (typed as a Tensor or Module)
        if attend_by := getattr(part, "set_attn_processor", None):  # a model of diffusers, which is there then
            from diffusers.models.attention_processor import AttnProcessor

            attend_by(AttnProcessor())


def start_or_resume(team: Sequence[Learner], order: Order, journal: Journal) -> Progress:
    """How far the run is: at step 0, or where the checkpoint that --resume_from_checkpoint names has put the team.

    Raises RunError where the folder holds another run, or the same with another configuration.
    """
    cfg, progress = journal.cfg, Progress(hardware_of(journal.accelerator))
    found = None
    if cfg.resume_from_checkpoint:
        found = checkpoint.find(journal.run_dir, cfg.resume_from_checkpoint, say=journal.say)
        if found is None:
            journal.say(f"nothing to resume in {journal.run_dir}: starting from scratch")
    elif checkpoint.found(journal.run_dir):
        raise RunError(
            f"{journal.run_dir} holds the checkpoints of an earlier run: continue it with "
            "--resume_from_checkpoint latest, or choose another --output_dir"
        )
    if found is not None:
        forced = changes_since(found, identity_of(team, order), journal)
        for learner in team:
            learner.load(found)
        progress.resume(found, forced, cfg.max_train_steps)
        journal.accelerator.wait_for_everyone()
        journal.say(f"resumed {found.path.name}: {cfg.max_train_steps - progress.step} steps to go")
    return progress


def identity_of(team: Sequence[Learner], order: Order) -> dict:
    """What decides the weights of a run: what must be equal when it is resumed."""
    others = [learner.name for learner in team[1:]]
    return identity(order.cfg, world_size=order.world) | {"data_hash": order.samples.data_hash, "other_players": others}


def changes_since(found: Checkpoint, now: dict, journal: Journal) -> list[str]:
    """What --force_resume lets pass, for the card. Raises RunError without that flag where anything has changed."""
    # A field that is younger than the checkpoint had its default then.
    before = defaults_of(journal.cfg) | {"other_players": []} | found.state["identity"]
    changed = {key: (before.get(key), value) for key, value in now.items() if before.get(key) != value}
    if not changed:
        return []
    text = ", ".join(f"{key} was {old!r} and is {new!r}" for key, (old, new) in changed.items())
    if not journal.cfg.force_resume:
        raise RunError(
            f"{found.path.name} belongs to another configuration: {text}. Restore it, choose another --output_dir, or "
            "resume all the same with --force_resume"
        )
    journal.say(f"resuming although {text}")
    return [f"from step {found.step} on, {text}"]


def measure_a_step(team: Sequence[Learner], order: Order, journal: Journal) -> None:
    """One measured step that changes nothing, and what it tells of the run."""
    buffers, accelerator = _buffers_of(team), journal.accelerator
    began = time.perf_counter()
    batch = order.on_device(order.first_batch())
    for learner in team:
        order.seed_draws(0, learner.number)
        with alone(learner, team):
            loss, _ = learner.loss(learner.model.train(), batch)
            accelerator.backward(loss)
        learner.optimizer.zero_grad()
    seconds = (time.perf_counter() - began) * order.cfg.gradient_accumulation_steps
    _restore(buffers)
    ends = time.strftime("%Y-%m-%d %H:%M", time.localtime(time.time() + seconds * order.cfg.max_train_steps))
    peak = torch.cuda.max_memory_allocated() if order.device.type == "cuda" else machine.peak_memory()
    parameters = sum(p.numel() for learner in team for p in learner.bare.parameters())
    journal.say(
        f"{parameters / 1e6:.2f}M parameters, {len(order.samples)} samples, {order.whole} per step on "
        f"{order.device} × {order.world}; one measured step: {seconds:.2f} s, so the run ends about {ends}; "
        f"peak memory so far {peak / 2**20:.0f} MiB"
    )


def try_export(export: Export | None, model: torch.nn.Module, journal: Journal, facts: dict) -> None:
    """Export the untrained model and delete it again, so that what fails fails now."""
    if journal.main and export:
        folder = journal.run_dir / "preflight"
        shutil.rmtree(folder, ignore_errors=True)
        names = export(model, folder, facts)
        shutil.rmtree(folder)
        journal.say("export works; a push would take: " + ", ".join(names))


# --- one step ------------------------------------------------------------------------------------------------------

Skipped = tuple[Learner, float, float]  # who sat a turn out, its loss and gradient norm


def one_step(
    team: Sequence[Learner], batches: Iterator, order: Order, accelerator: Accelerator, step: int, stop: "Stop"
) -> tuple[dict[str, float], list[Skipped]]:
    """The numbers of one optimiser step of each player, all on the same A batches.

    Who meets a non-finite loss or gradient sits its turn out, and is named in the second list.
    """
    numbers, skipped = {}, []
    shared = [next(batches) for _ in range(order.cfg.gradient_accumulation_steps)]
    for learner in team:
        learner.model.train()
        learner.set_rate(step)
    for learner in team:
        buffers = _buffers_of(team)
        with alone(learner, team):
            loss, extra = gradients(learner, shared, order, accelerator, step)
        norm = torch.nn.utils.clip_grad_norm_(learner.model.parameters(), learner.cfg.max_grad_norm)
        loss, norm, finite = tell_each_other(accelerator, loss, norm, stop)
        if finite:
            learner.update()
        else:
            _restore(buffers)  # running statistics have seen the bad batch
            skipped.append((learner, loss, norm))
        learner.optimizer.zero_grad()
        numbers |= learner.numbered({"loss": loss, "grad_norm": norm} | extra)
    return numbers, skipped


def gradients(
    learner: Learner, batches: Sequence[Any], order: Order, accelerator: Accelerator, step: int
) -> tuple[torch.Tensor, dict[str, Any]]:
    """The mean loss over the A batches of a step, whose gradient the learner has then, and the last one's numbers."""
    parts, total, numbers = len(batches), torch.zeros((), device=order.device), {}
    for part, batch in enumerate(batches):
        batch = order.on_device(batch)
        order.seed_draws(step * parts + part, learner.number)
        with contextlib.nullcontext() if part == parts - 1 else accelerator.no_sync(learner.model):
            with accelerator.autocast():
                loss, numbers = learner.loss(learner.model, batch)
            accelerator.backward(loss / parts)
        total += loss.detach() / parts
    return total, numbers


def tell_each_other(
    accelerator: Accelerator, loss: torch.Tensor, norm: torch.Tensor, stop: "Stop"
) -> tuple[float, float, bool]:
    """Mean loss and worst gradient norm over all processes, and whether all are finite; a signal to one is to all."""
    here = [loss.float(), norm.float().to(loss.device), torch.tensor(float(stop.received or 0), device=loss.device)]
    seen = accelerator.gather(torch.stack(here)[None])  # (W, 3): the one collective of a player's turn
    if told := int(torch.nan_to_num(seen[:, 2]).max().item()):
        stop.agreed = told
    loss, norm = seen[:, 0].mean().item(), seen[:, 1].max().item()
    return loss, norm, math.isfinite(loss) and bool(torch.isfinite(seen[:, 1]).all())


def look_at_skipped(skipped: list[Skipped], progress: Progress, order: Order, journal: Journal) -> None:
    """Name the samples of a skipped step. Raises RunError after ten of them in a row."""
    samples = order.of_step(progress.step - 1) if skipped else []
    for learner, loss, norm in skipped:
        what = f"step {progress.step} of {learner.name}" if learner.name else f"step {progress.step}"
        journal.say(f"{what} skipped: loss {loss}, gradient norm {norm}; samples {samples[:16]} …")
    if progress.in_a_row >= MAX_SKIPPED_IN_A_ROW:
        raise RunError(
            f"{progress.in_a_row} steps in a row had a non-finite loss or gradient, the last on samples {samples} of "
            f"{order.cfg.dataset_name}: look at these samples, lower --learning_rate, or use --mixed_precision no. "
            "The newest checkpoint is from before"
        )


def _buffers_of(team: Sequence[Learner]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(buffer, buffer.clone()) for learner in team for buffer in learner.bare.buffers()]


@torch.no_grad()
def _restore(buffers: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    for buffer, before in buffers:
        buffer.copy_(before)


# --- every so many steps -------------------------------------------------------------------------------------------


def validate(
    team: Sequence[Learner], journal: Journal, step: int, evaluate: Evaluate | None, draw_samples: DrawSamples | None
) -> None:
    """Note what the averaged weights score, and draw a picture of what they do; in the first process."""
    if journal.main and evaluate:
        with ema_weights(team) as model:
            journal.note(step, {f"validation/{key}": value for key, value in evaluate(model).items()}, show=True)
            if draw_samples:
                folder = journal.run_dir / "samples"
                folder.mkdir(exist_ok=True)
                draw_samples(model).save(folder / f"step-{step:07d}.png")
    journal.accelerator.wait_for_everyone()


def save(team: Sequence[Learner], order: Order, journal: Journal, progress: Progress) -> None:
    """A checkpoint of the team and of how far it is."""
    if journal.main:
        tensors = {name: group for learner in team for name, group in learner.tensors().items()}
        averaged = [learner.ema.optimization_step for learner in team]
        state = progress.state() | {"identity": identity_of(team, order), "averaged_steps": averaged}
        checkpoint.save(journal.run_dir, progress.step, tensors, state, keep=order.cfg.checkpoints_total_limit)
    journal.accelerator.wait_for_everyone()


# --- signals -------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Stop:
    """Whether to stop, and by which signal."""

    world: int
    received: int | None = None  # by this process
    agreed: int | None = None  # what all processes act upon, at the end of the same step

    def receive(self, number: int, _frame: Any) -> None:
        if self.received:
            raise SystemExit(128 + number)
        self.received = number
        if self.world == 1:  # else all must stop at the same step: see `tell_each_other`
            self.agreed = number


@contextlib.contextmanager
def stop_signals(world: int) -> Generator[Stop]:
    """SIGTERM and SIGINT go to the Stop for the time of the block (main thread only, as Python has it)."""
    stop = Stop(world)
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, stop.receive) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, old in before.items():
            signal.signal(number, old)
