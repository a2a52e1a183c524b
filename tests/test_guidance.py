"""Classifier guidance of noisy pictures: its gradient, the sampler that follows it, its training, the page."""

import json

import numpy as np
import pytest
import timm
import tiny_models
import torch
from diffusers import DDPMScheduler
from gradio_client import Client
from gradio_client.exceptions import AppError
from PIL import Image
from test_ddpm_model import last, small_model
from test_samplers import MODES, SHARES, SPREAD, cosine, mixture_guess

from apps import ddpm as app
from apps.ddpm import desk
from apps.ddpm.page import GUIDE
from apps.kit import values
from hub_models import classifier, ddpm, samplers
from training import classifier as training
from training import metrics
from training.data.sources import open_source

LABELS = ("face", "food", "<b>flag</b>")


def small_guide(side_px: int = 16, planes: int = 4, label_names=LABELS) -> classifier.Classifier:
    torch.manual_seed(3)
    sizes = {"img_size": side_px, "patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2, "in_chans": planes}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=len(label_names), **sizes)
    shown = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "input_size": (planes, side_px, side_px), "crop_pct": 1.0}
    model.pretrained_cfg = dict(model.pretrained_cfg) | shown
    return classifier.Classifier(
        model.eval().requires_grad_(False), label_names, name="noised", weights_sha256="1" * 64
    )


class Exactly:
    """The classifier of the mixture of `test_samplers`: p(mode | x_t) has a closed form."""

    def __init__(self, mode: int):
        self.mode = mode

    def slope(self, x, a):
        x = x.detach().requires_grad_()
        away = (a.sqrt() * MODES - x[:, None]).square().sum(2)  # (N, K)
        log_p = (SHARES.log() - away / (2 * (a * SPREAD**2 + 1 - a))).log_softmax(1)
        return torch.autograd.grad(log_p[:, self.mode].sum(), x)[0]


# ---- the gradient ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha_bar", [0.05, 0.6, 1.0])
def test_the_gradient_is_the_finite_difference_of_log_p(alpha_bar):
    guide = small_guide()
    guide.model.double()
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def log_p(x):
        planes = classifier.with_noise_plane(x, alpha_bar)
        assert planes.shape == (2, 4, 16, 16) and torch.all(planes[:, 3] == (1 - alpha_bar) ** 0.5)
        return guide.model(planes).log_softmax(-1)

    gradient = guide.gradient(x, alpha_bar, ["food", None])
    assert gradient.shape == x.shape and torch.all(gradient[1] == 0) and gradient[0].abs().sum() > 0
    for place in [(0, 0, 0), (1, 7, 3), (2, 15, 15)]:
        moved = torch.zeros_like(x)
        moved[(0, *place)] = 1e-5
        with torch.no_grad():
            difference = (log_p(x + moved)[0, 1] - log_p(x - moved)[0, 1]) / 2e-5
        assert float(gradient[(0, *place)]) == pytest.approx(float(difference), rel=1e-5, abs=1e-9)


@pytest.mark.parametrize(
    ("guide", "labels", "words"),
    [
        (lambda: small_guide(planes=3), ["food"], "has seen no noise"),
        (lambda: small_guide(side_px=32), ["food"], "sees 32 px, these pictures have 16"),
        (small_guide, ["moon"], "knows no label 'moon'"),
    ],
)
def test_a_classifier_that_does_not_fit_is_refused_in_words(guide, labels, words):
    with pytest.raises(ValueError, match=words):
        guide().gradient(torch.zeros(1, 3, 16, 16), 0.5, labels)


# ---- the sampler that follows it -------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["ddim", "dpm++", "ddpm"])
@pytest.mark.parametrize("mode", [0, 2])
def test_an_exact_classifier_turns_draws_of_all_into_draws_of_its_class(sampler, mode):
    """s(x) + ∇ log p(y | x) is the score of q(x | y): Dhariwal & Nichol 2021, eq. 6, so γ = 1 draws that one mode."""
    draw, scheduler = torch.Generator().manual_seed(0), cosine()
    x, before = torch.randn(1000, 2, generator=draw), None
    for level in samplers.levels(scheduler, sampler, 100):
        guess = samplers.towards(mixture_guess(x, level.a), Exactly(mode).slope(x, level.a), level.a, 1.0)
        if sampler == "ddim":
            x = samplers.ddim(x, guess, level.a, level.b)
        elif sampler == "dpm++":
            x, before = samplers.dpm_solver(x, guess, level.a, level.b, before), (guess, level.a)
        else:
            z = torch.randn(x.shape, generator=draw) if level.b < 1 else None
            x = samplers.ancestral(x, guess, level.a, level.b, z)
    assert ((x - MODES[mode]).norm(dim=1) < 4 * SPREAD).float().mean() > 0.98
    assert torch.allclose(x.mean(0), MODES[mode], atol=0.05) and torch.allclose(
        x.std(0), torch.tensor(SPREAD), atol=0.05
    )


def test_a_drawing_follows_its_guide_and_none_with_a_scale_of_0():
    model, guide = small_model("v_prediction"), small_guide(label_names=tuple(small_model("v_prediction").label_names))
    asked = {"num_inference_steps": 6, "guidance_scale": 1.0, "sampler": "ddim"}
    label = model.label_names[1]
    plain = last(model.generate([label], [5], **asked)).x_t
    assert torch.equal(last(model.generate([label], [5], guide=guide, guide_scale=0, **asked)).x_t, plain)
    guided = last(model.generate([label], [5], guide=guide, guide_scale=8, **asked)).x_t
    assert not torch.allclose(guided, plain, atol=1e-3)
    free = last(model.generate([None], [5], guide=guide, guide_scale=8, **asked)).x_t
    assert torch.equal(free, last(model.generate([None], [5], **asked)).x_t), "no label, nothing to go towards"
    first = next(model.generate([label], [5], guide=guide, guide_scale=8, **asked))
    a = model.scheduler.alphas_cumprod[first.timestep]
    x_T = model.initial_noise([5])
    unguided = next(model.generate([label], [5], **(asked | {"num_inference_steps": 6})))
    expected = unguided.x0 + 8 * (1 - a) / a.sqrt() * guide.gradient(x_T, float(a), [label])
    most = model.scheduler.config.clip_sample_range if model.scheduler.config.clip_sample else None
    expected = expected if most is None else expected.clamp(-most, most)
    inside = (unguided.x0.abs() < 0.999) | (most is None)  # where the unguided guess was not clipped itself
    assert inside.any() and torch.allclose(first.x0[inside], expected[inside], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("scale", [-1, float("nan"), "3", 2.0])
def test_a_scale_needs_a_guide_and_a_number(scale):
    with pytest.raises(ValueError, match="needs a guide" if scale == 2.0 else "is not a number from 0"):
        small_model("v_prediction").generate([0], [1], guide_scale=scale)


# ---- its training ----------------------------------------------------------------------------------------------------


SMALL = ["--model_args.embed_dim", "32", "--model_args.depth", "2", "--model_args.num_heads", "2"]
SMALL += ["--max_train_steps", "2", "--train_batch_size", "8", "--dataloader_num_workers", "0"]


def test_it_is_trained_exported_and_opened_by_stock_timm_to_the_bit(tmp_path):
    run = str(tmp_path / "run")
    training.main(["--preset", "noised", *SMALL, "--dataset_name", "emoji-sample", "--output_dir", run])
    folder = tmp_path / "run" / "export"
    assert json.loads((folder / "config.json").read_text())["pretrained_cfg"]["input_size"] == [4, 32, 32]
    served = classifier.load(folder)
    assert served.reads_noise
    stock = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    x = torch.randn(2, 4, 32, 32)
    with torch.no_grad():
        assert torch.equal(stock(x), served.model(x))
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8))
    assert served.preprocess([picture]).shape == (1, 4, 32, 32) and not served.preprocess([picture])[:, 3].any()
    assert served.gradient(torch.randn(1, 3, 32, 32), 0.5, served.label_names[:1]).abs().sum() > 0


def test_it_is_measured_with_noise_on_pictures(monkeypatch):
    """Without any it is as of clean pictures; the same noise every time, and more of it leaves less to see."""
    model, source = classifier.load("noised", "cpu"), open_source("emoji-sample", split="train")
    rows = np.arange(0, len(source), 2)
    clean = metrics.top_k_accuracy(training.logits_of(model, source)[rows], source.labels[rows], 1)
    monkeypatch.setattr(training, "NOISE", (1.0, 0.3, 0.001))
    scores = training.noisy_accuracy(model, source, rows, batch_size=16)
    assert list(scores) == ["noisy_1/top1", "noisy_0.3/top1", "noisy_0.001/top1"]
    assert scores["noisy_1/top1"] == clean > scores["noisy_0.3/top1"] > scores["noisy_0.001/top1"]
    assert training.noisy_accuracy(model, source, rows, batch_size=7) == scores


@pytest.mark.parametrize("flags", [["--preset", "tiny", "--noised"], ["--preset", "noised", "--no-noised", *SMALL]])
def test_noise_and_the_fourth_plane_go_together(flags, tmp_path):
    with pytest.raises(SystemExit, match="a model of four planes alone"):
        training.main([*flags, "--dataset_name", "emoji-sample", "--output_dir", str(tmp_path / "run")])


# ---- the page --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    scheduler = DDPMScheduler(num_train_timesteps=300, prediction_type="v_prediction", timestep_spacing="trailing")
    return ddpm.DDPM(
        tiny_models.unet(classes=4), scheduler, label_names=LABELS, null_label=3, guidance_scale=2.0, name="tiny",
        weights_sha256="0" * 64,
    )  # fmt: skip


def test_a_guide_fits_a_model_by_size_and_classes(model):
    def guide_of(*guides):
        return desk.Desk({"tiny": model}, guides).guide_of(model)

    fits = small_guide()
    assert guide_of(small_guide(planes=3), small_guide(side_px=32), small_guide(label_names=("a", "b")), fits) is fits
    assert guide_of(small_guide(planes=3)) is None
    unconditional = ddpm.DDPM(tiny_models.unet(), model.scheduler, name="plain")
    assert desk.Desk({"plain": unconditional}, [fits]).guide_of(unconditional) is None, "it has no class to go towards"
    with pytest.raises(values.InputError, match="set its guidance to 0"):
        desk.check_order(model, ["food"], 1, 0, 2, 1, "DDIM", 3)
    with pytest.raises(values.InputError, match="from 0 to 10"):
        desk.check_order(model, ["food"], 1, 0, 2, 1, "DDIM", 11, guide=fits)


def test_the_api_guides_by_it_and_the_receipt_says_so(serve, model, tmp_path):
    guide = small_guide()
    client = Client(serve(app.build({"tiny": model, f"{GUIDE}noised": guide})), verbose=False,
                    download_files=str(tmp_path))  # fmt: skip
    asked = {"labels": ["food"], "count": 1, "seed": 5, "steps": 4, "guidance": 1, "sampler": "DDIM"}
    files, receipt = client.predict(**asked, guide_scale=6, api_name="/ddpm_draw")
    assert (receipt["guide"], receipt["guide_sha256"], receipt["guide_scale"]) == ("noised", "1" * 64, 6)
    (*_, step) = model.generate(["food"], [5], num_inference_steps=4, guidance_scale=1.0, sampler="ddim",
                                guide=guide, guide_scale=6.0)  # fmt: skip
    drawn = np.asarray(Image.open(files[0]["image"]).convert("RGB")).astype(int)
    assert np.abs(drawn - ddpm.to_uint8(step.x_t)[0]).max() <= 1
    plain, said = client.predict(**asked, api_name="/ddpm_draw")
    assert "guide" not in said and np.abs(np.asarray(Image.open(plain[0]["image"]).convert("RGB")) - drawn).max() > 1
    with pytest.raises(AppError, match="from 0 to 10"):
        client.predict(**asked, guide_scale=99, api_name="/ddpm_draw")


def test_the_slider_is_there_where_a_guide_fits_and_changes_the_picture(serve, page, model):
    page.set_default_timeout(60_000)
    page.goto(serve(app.build({"tiny": model})))
    page.get_by_label("number input for Guidance", exact=True).wait_for()
    assert not page.get_by_label("number input for Classifier guidance", exact=True).count()
    page.goto(serve(app.build({"tiny": model, f"{GUIDE}noised": small_guide()})))
    page.get_by_label("New seed every time").uncheck()
    drawn = []
    for scale, steps in ((0, 6), (9, 7), (9, 6)):
        for label, value in (("Pictures", 1), ("Steps", steps), ("Classifier guidance", scale)):
            box = page.get_by_label(f"number input for {label}", exact=True)
            box.fill(str(value))
            box.press("Tab")
        page.get_by_role("button", name="Draw", exact=True).click()
        page.wait_for_function(
            "said => document.querySelector('#ddpm-status').innerText.includes(said)", arg=f"Done: {steps} steps"
        )
        page.wait_for_selector(".tile:not([disabled])")
        drawn.append(page.get_attribute("#ddpm-sheet img", "src"))
    assert drawn[0] != drawn[2]
