"""The objective of the diffusion trainings, against its formulas."""

import pytest
import torch
from diffusers import DDPMScheduler

from training.diffusion import STRATA, diffusion_loss, held_out_loss


class Constant(torch.nn.Module):
    """Answers 0.25 everywhere, and keeps what it was asked."""

    def __init__(self):
        super().__init__()
        self.weight, self.asked = torch.nn.Parameter(torch.zeros(1)), []

    def forward(self, x, t, **condition):
        self.asked.append((x, t, condition))
        return type("Output", (), {"sample": torch.full_like(x, 0.25)})


def velocity(bar, clean, noise):
    return bar.sqrt() * noise - (1 - bar).sqrt() * clean


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_the_loss_by_hand(kind):
    scheduler = DDPMScheduler(100, prediction_type=kind, beta_schedule="squaredcos_cap_v2")
    t, draw = torch.tensor([0, 10, 50, 99]), torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(4, 2, 3, 3, generator=draw) for _ in range(2))
    bar = scheduler.alphas_cumprod[t].view(4, 1, 1, 1)
    target = {"epsilon": noise, "sample": clean, "v_prediction": velocity(bar, clean, noise)}[kind]
    error = (0.25 - target).square().mean((1, 2, 3))
    unet = Constant()
    torch.testing.assert_close(diffusion_loss(unet, scheduler, clean, noise, t, words=t), error)
    noisy, _, condition = unet.asked[0]
    torch.testing.assert_close(noisy, bar.sqrt() * clean + (1 - bar).sqrt() * noise)
    assert condition["words"] is t
    snr = (bar / (1 - bar)).flatten()
    weight = torch.minimum(snr, torch.tensor(5.0)) / {"epsilon": snr, "sample": 1, "v_prediction": snr + 1}[kind]
    weighted = diffusion_loss(unet, scheduler, clean, noise, t, snr_gamma=5.0)
    torch.testing.assert_close(weighted, error * weight, rtol=1e-4, atol=1e-6)


def test_the_held_out_loss_asks_the_same_every_time():
    """Each picture at each of the fixed times, its noise a function of its place alone."""
    scheduler = DDPMScheduler(80, prediction_type="epsilon")
    clean, labels = torch.randn(3, 2, 4, 4), torch.tensor([2, 0, 1])
    first, second, fewer = Constant(), Constant(), Constant()
    value = held_out_loss(first, scheduler, clean, class_labels=labels)
    assert held_out_loss(second, scheduler, clean, class_labels=labels) == value
    held_out_loss(fewer, scheduler, clean[:2], class_labels=labels[:2])
    assert [int(t[0]) for _, t, _ in first.asked] == [5, 15, 25, 35, 45, 55, 65, 75] and len(first.asked) == STRATA
    for (x, _, read), (same, _, _), (part, _, _) in zip(first.asked, second.asked, fewer.asked, strict=True):
        assert torch.equal(x, same) and torch.equal(x[:2], part) and torch.equal(read["class_labels"], labels)
