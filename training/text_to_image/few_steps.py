"""Draw in one to four steps what a model draws in ten: consistency distillation of it, under guidance.

A student f(x_t, t, w) that begins as its teacher says at any time what picture the teacher's path leads to; with
predictions of v or ε it is the predicted x_0, and stock `LCMScheduler` draws with it. Song et al. 2023 (consistency
models), algorithm 2; Luo et al. 2023 (LCM): guidance as an input; Geng et al. 2024 (ECT): the times shrink towards each
other while it learns, and the target is the student itself.

Letters: B samples, C × h × w a latent, L tokens, D width of the text states, W of the guidance embedding, T training
timesteps.
"""

from collections.abc import Callable, Sequence

import torch
from diffusers import DDPMScheduler, LCMScheduler, StableDiffusionPipeline, UNet2DConditionModel

from hub_models import text_to_image as contract
from hub_models.drawing import guide, predict_x0
from hub_models.samplers import ddim
from training.loop import plain_attention

GRID = 8  # times that LCMScheduler chooses among: 1, 2, 4 steps take [999], [999, 499], [999, 749, 499, 249] of 1,000
GUIDANCE_WIDTH = 256  # W
MAX_GUIDANCE = 8.0  # it is shown guidance from 1 up to this
HALVINGS = (1.0, 3.0)  # a at the first step and at the last: a time t learns from r = t (1 - 2^-a)
HUBER = 0.00054  # c of the pseudo-Huber loss over the root of a latent's size. Song & Dhariwal 2023, section 3.3


class Student(torch.nn.Module):
    """A U-Net that learns to take few steps. `seen`: its batches so far, on which times depend: a checkpoint has it."""

    def __init__(self, unet: UNet2DConditionModel):
        super().__init__()
        self.unet = unet
        self.seen: torch.Tensor
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))

    def forward(self, *args, **told):
        if self.training and torch.is_grad_enabled():
            self.seen += 1
        return self.unet(*args, **told)


def student_of(teacher: contract.TextToImage) -> contract.TextToImage:
    """The teacher's pipeline with a copy of its U-Net that reads guidance, too, by weights that are zero at first.

    Raises SystemExit for a teacher that reads guidance already.
    """
    if teacher.reads_guidance:
        raise SystemExit(f"{teacher.name} reads its guidance already, as a student does: name the teacher that it had")
    unet = UNet2DConditionModel.from_config(dict(teacher.pipe.unet.config) | {"time_cond_proj_dim": GUIDANCE_WIDTH})
    rest, _ = unet.load_state_dict(teacher.pipe.unet.state_dict(), strict=False)
    assert rest == ["time_embedding.cond_proj.weight"], rest
    torch.nn.init.zeros_(unet.time_embedding.cond_proj.weight)
    parts = teacher.pipe.components | {"unet": unet, "scheduler": few_step_scheduler(teacher.pipe.scheduler)}
    pipe = StableDiffusionPipeline(**parts, requires_safety_checker=False)
    scale = min(teacher.default_guidance, MAX_GUIDANCE)
    own: dict = {"guidance_scale": scale, "max_guidance": MAX_GUIDANCE, "default_steps": 4, "default_sampler": "lcm"}
    own["resolution_px"] = teacher.resolution_px
    return contract.TextToImage(pipe.to(teacher.device), name="in training", **(teacher.extra | own))


def few_step_scheduler(scheduler) -> LCMScheduler:
    """The scheduler that a student is saved with, of the same noise as its teacher's."""
    config = dict(scheduler.config) | {"original_inference_steps": GRID}
    config.pop("_use_default_values", None)  # with it, from_config resets what the saved scheduler had as default
    return LCMScheduler.from_config(config, clip_sample=False)


def nearer(t: torch.Tensor, progress: float) -> torch.Tensor:
    """r = t (1 - 2^-a) of times t (B,), whole: half of t at first, then nearer to it. Geng et al. 2024 (ECT)."""
    first, last = HALVINGS
    return (t * (1 - 2 ** -(first + (last - first) * min(1.0, progress)))).floor().long()


def pseudo_huber(difference: torch.Tensor) -> torch.Tensor:
    """√(|d|² + c²) - c of each difference (B, C, h, w), (B,). Song & Dhariwal 2023, eq. 8."""
    c = HUBER * difference[0].numel() ** 0.5
    return (difference.flatten(1).square().sum(1) + c**2).sqrt() - c


def distillation(
    teacher: contract.TextToImage, student: contract.TextToImage, learner: Student, batches: int
) -> Callable:
    """The loss of a learner, the U-Net of a student: lesson(module, latents, noise, t, scales, states) -> ().

    module: the learner, or what the loop has put around it. batches: after which the times are as near to each other as
    they get. latents, noise: (B, C, h, w); t: (B,), whole, from 1 up; scales: (B,), the guidance; states: (B, L, D).
    """
    scheduler, judge = DDPMScheduler.from_config(teacher.pipe.scheduler.config), teacher.pipe.unet
    judge.requires_grad_(False).eval()
    if teacher.device.type == "cpu":
        plain_attention(judge)
    nothing = teacher.text_states([""])  # (1, L, D)

    def bar(t):
        return scheduler.alphas_cumprod.to(t.device)[t][:, None, None, None]  # (B, 1, 1, 1)

    def guessed(unet, x, t, states, **told):
        output = unet(x, t, encoder_hidden_states=states, **told).sample.float()  # (B, C, h, w)
        return predict_x0(output, x, bar(t), scheduler.config.prediction_type)

    @torch.no_grad()
    def a_step(x, t, r, states, scales):
        """x_r by one step of DDIM of the guided teacher, and the x_0 that it goes towards; both (B, C, h, w)."""
        both = torch.cat([nothing.to(states).expand_as(states), states])
        without, towards = guessed(judge, torch.cat([x, x]), torch.cat([t, t]), both).chunk(2)
        x0 = guide(without, towards, scales[:, None, None, None])
        return ddim(x, x0, bar(t), bar(r)), x0

    def lesson(module: torch.nn.Module, latents, noise, t, scales, states):
        r = nearer(t, int(learner.seen) / batches)
        told = {"timestep_cond": student.guidance_embedding(scales)}
        x = scheduler.add_noise(latents, noise, t)
        x_r, x0 = a_step(x, t, r, states, scales)
        with torch.no_grad():
            target = torch.where((r > 0)[:, None, None, None], guessed(module, x_r, r, states, **told), x0)
        return pseudo_huber(guessed(module, x, t, states, **told) - target).mean()

    return lesson


class Path:
    """Where a teacher's default drawing of each prompt leads, from noise that is kept."""

    def __init__(self, teacher: contract.TextToImage, prompts: Sequence[str]):
        self.prompts, self.seeds = list(prompts), list(range(len(prompts)))
        self.ends = self._drawn(teacher)  # (N, C, h, w)

    def distance(self, student: contract.TextToImage) -> float:
        """Root mean square distance of latents after one step of the student's to these ends."""
        made = self._drawn(student, num_inference_steps=1, guidance_scale=student.default_guidance)
        return (made - self.ends).square().mean().sqrt().item()

    def _drawn(self, model: contract.TextToImage, **how) -> torch.Tensor:
        *_, last = model.generate(self.prompts, self.seeds, **how)
        return last.latents
