"""hub_models/samplers.py against stock schedulers and against distributions whose scores are known."""

import copy

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler
from test_ddpm_model import last, small_model

from hub_models import ddpm, samplers

MODES, SHARES, SPREAD = torch.tensor([[-2.0, 0.0], [2.0, 1.0], [1.0, -2.0]]), torch.tensor([0.5, 0.3, 0.2]), 0.2


def cosine(timesteps: int = 1000) -> DDPMScheduler:
    return DDPMScheduler(timesteps, beta_schedule="squaredcos_cap_v2", prediction_type="sample", clip_sample=False)


def mixture_score(x, a):
    """∇ log q(x_t), (N, 2), where the data are Gaussians of deviation SPREAD around MODES, in SHARES."""
    variance = a * SPREAD**2 + 1 - a
    away = a.sqrt() * MODES - x[:, None]  # (N, K, 2)
    weight = (SHARES.log() - away.square().sum(2) / (2 * variance)).softmax(1)  # (N, K)
    return (weight[..., None] * away).sum(1) / variance


def mixture_guess(x, a):
    """E[x_0 | x_t], (N, 2), by Tweedie's formula."""
    return (x + (1 - a) * mixture_score(x, a)) / a.sqrt()


def shares_found(x) -> torch.Tensor:
    """Which share of the points (N, 2) lies at each mode, within four deviations."""
    apart = (x[:, None] - MODES).norm(dim=2)  # (N, K)
    assert (apart.min(1).values < 4 * SPREAD).float().mean() > 0.97
    return torch.bincount(apart.argmin(1), minlength=len(MODES)) / len(x)


@pytest.mark.parametrize("t", [0, 300, 999])
def test_noised_data_have_the_moments_of_ho_eq_4(t):
    draw, a = torch.Generator().manual_seed(0), cosine().alphas_cumprod[t]
    x_0 = torch.tensor([3.0, -1.0])
    x = samplers.add_noise(x_0, torch.randn(200_000, 2, generator=draw), a)
    assert torch.allclose(x.mean(0), a.sqrt() * x_0, atol=0.01)
    assert torch.allclose(x.var(0), (1 - a).expand(2), atol=0.01)
    assert torch.allclose(samplers.noise_in(x, x_0, a), (x - a.sqrt() * x_0) / (1 - a).sqrt())


def test_the_score_of_predicted_noise_is_the_slope_of_the_log_density():
    a, mean, deviation = torch.tensor(0.3), 1.5, 0.4
    x = torch.linspace(-2, 2, 9, dtype=torch.float64).requires_grad_()
    variance = a * deviation**2 + 1 - a
    log_density = -((x - a.sqrt() * mean) ** 2) / (2 * variance)
    (slope,) = torch.autograd.grad(log_density.sum(), x)
    guess = (x + (1 - a) * slope) / a.sqrt()  # E[x_0 | x_t]
    assert torch.allclose(samplers.score(samplers.noise_in(x, guess, a), a), slope, atol=1e-6)


@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_large"])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_ancestral_gives_the_bits_of_the_stock_scheduler(variance_type, spacing):
    model = small_model("epsilon", variance_type=variance_type, timestep_spacing=spacing)
    steps = model.generate([1], [5], num_inference_steps=10, guidance_scale=1, sampler="ddpm")
    stock, draw = copy.deepcopy(model.scheduler), torch.Generator().manual_seed(5)
    stock.set_timesteps(10)
    x = torch.randn(1, 3, 16, 16, generator=draw)
    for t, step in zip(stock.timesteps, steps, strict=True):
        with torch.no_grad():
            output = model.unet(x, t, class_labels=torch.tensor([1])).sample
        x = stock.step(output, t, x, generator=draw).prev_sample
        assert torch.equal(step.x_t, x) and step.timestep == t


def test_ddim_and_dpm_solver_are_the_stock_ones():
    scheduler, x_T = cosine(), torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    own = {"ddim": DDIMScheduler, "dpm++": DPMSolverMultistepScheduler}
    for sampler, kind in own.items():
        stock = kind.from_config(scheduler.config, timestep_spacing="trailing")
        stock.set_timesteps(20)
        mine = theirs = x_T
        before = None
        for t, level in zip(stock.timesteps, samplers.levels(scheduler, sampler, 20), strict=True):
            assert int(t) == level.timestep
            guess = mixture_guess(mine, level.a)
            theirs = stock.step(mixture_guess(theirs, level.a), t, theirs).prev_sample
            if sampler == "ddim":
                mine = samplers.ddim(mine, guess, level.a, level.b)
            else:
                mine, before = samplers.dpm_solver(mine, guess, level.a, level.b, before), (guess, level.a)
            assert torch.allclose(mine, theirs, rtol=1e-4, atol=1e-4), (sampler, level)


@pytest.mark.parametrize("sampler", samplers.SAMPLERS)
def test_every_sampler_finds_the_modes_of_a_mixture_in_their_shares(sampler):
    draw, count = torch.Generator().manual_seed(1), 4000
    x, before = torch.randn(count, 2, generator=draw), None
    for level in samplers.levels(cosine(), sampler, 400 if sampler == "langevin" else 100):
        guess = mixture_guess(x, level.a)
        z = torch.randn(count, 2, generator=draw)
        if sampler == "langevin":
            x = samplers.langevin(x, mixture_score(x, level.a), level.a, z)
        elif sampler == "ddpm":
            x = samplers.ancestral(x, guess, level.a, level.b, z if level.b < 1 else None)
        elif sampler == "ddim":
            x = samplers.ddim(x, guess, level.a, level.b)
        else:
            x, before = samplers.dpm_solver(x, guess, level.a, level.b, before), (guess, level.a)
    assert torch.allclose(shares_found(x), SHARES, atol=0.04)


def test_langevin_stays_in_a_distribution_that_it_is_in():
    draw, a = torch.Generator().manual_seed(0), torch.tensor(0.5)
    variance = a * SPREAD**2 + 1 - a
    x = variance.sqrt() * torch.randn(20_000, 1, generator=draw)
    for _ in range(50):
        x = samplers.langevin(x, -x / variance, a, torch.randn(x.shape, generator=draw), size=0.1)
    assert abs(x.var() / variance - 1) < 0.06  # the step's own error is α / 4σ², 2.5 %


@pytest.mark.parametrize("sampler", samplers.SAMPLERS)
def test_a_fork_keeps_the_way_so_far_and_differs_after(sampler):
    model = small_model("v_prediction", "squaredcos_cap_v2")
    settings = {"num_inference_steps": 12, "guidance_scale": 2.0, "sampler": sampler}

    def drawn(fork):
        return [step.x_t for step in model.generate(["star"], [3], **settings, fork=fork)]

    whole = drawn(None)
    changes = {"labels": ["circle"]}, {"guidance_scale": 5.0}, {"sampler": "ddpm" if sampler != "ddpm" else "ddim"}
    for change in changes:
        branch = drawn(ddpm.Fork(5, **change))
        assert all(map(torch.equal, whole[:5], branch[:5]))
        assert not torch.equal(whole[5], branch[5]) and not torch.equal(whole[-1], branch[-1])
        assert len(branch) == 12 and all(torch.isfinite(x).all() for x in branch)
    assert all(map(torch.equal, whole, drawn(ddpm.Fork(5))))


def test_a_fork_from_the_first_step_is_the_other_drawing():
    model = small_model()
    fork = ddpm.Fork(0, labels=["star"], guidance_scale=4.0)
    other = model.generate(["circle"], [3], num_inference_steps=6, guidance_scale=2.0, fork=fork)
    assert torch.equal(
        last(other).x_t, last(model.generate(["star"], [3], num_inference_steps=6, guidance_scale=4.0)).x_t
    )


@pytest.mark.parametrize(
    ("fork", "words"),
    [
        (ddpm.Fork(6), "from 0 to 5"),
        (ddpm.Fork(-1), "from 0 to 5"),
        (ddpm.Fork(True), "from 0 to 5"),
        (ddpm.Fork(1, labels=["moon"]), "circle, square, star, any"),
        (ddpm.Fork(1, labels=["star", "star"]), "2 labels for 1 seeds"),
        (ddpm.Fork(1, guidance_scale=float("inf")), "finite"),
        (ddpm.Fork(1, sampler="euler"), "ddpm, ddim"),
    ],
)
def test_a_fork_that_cannot_be_is_said_before_the_first_step(fork, words):
    with pytest.raises(ValueError, match=words):
        small_model().generate([0], [0], num_inference_steps=6, fork=fork)


def test_the_score_of_a_step_points_from_the_noise_to_the_guess():
    model = small_model(clip_sample=False)
    x = model.initial_noise([2])
    for step in model.generate([0], [2], num_inference_steps=5):
        a = model.scheduler.alphas_cumprod[step.timestep]
        assert torch.allclose(step.score, (a.sqrt() * step.x0 - x) / (1 - a), rtol=1e-3, atol=1e-4)
        x = step.x_t


def test_the_receipt_of_a_fork_says_where_and_what():
    model = small_model()
    fork = ddpm.Fork(3, labels=[1], sampler="ddim")
    settings = {"num_inference_steps": 6, "guidance_scale": 2.0, "sampler": "ddpm"}
    receipt = model.receipt(["star"], [1], **settings, fork=fork)
    stayed = {"guidance_scale": None, "guide_scale": None}
    assert receipt["fork"] == {"at": 3, "labels": ["square"], "sampler": "ddim"} | stayed
    assert "fork" in receipt["checks"] and "fork" not in model.receipt(["star"], [1], **settings)
