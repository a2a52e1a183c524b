"""The score on a plane through three pictures: its geometry, a mixture whose score is known, and the page's tab."""

import re
import types

import numpy as np
import pytest
import tiny_models
import torch
from diffusers import DDPMScheduler
from gradio_client import Client
from gradio_client.exceptions import AppError
from PIL import Image
from tiny_gallery import tiny_ddpm

from apps import ddpm as app
from apps.ddpm import field, plot
from apps.ddpm.desk import Desk
from apps.ddpm.plane import Plane, chains, scores, square
from apps.kit import values
from hub_models import ddpm, samplers

SPREAD = 0.5  # of each Gaussian of the mixture
ASKED = {"first": "face", "second": "food", "third": "flag", "seed": 3, "t": 200, "label": "any"}


@pytest.fixture(scope="module")
def model():
    return tiny_ddpm()


def three(seed: int = 0) -> torch.Tensor:
    return torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(seed)).clamp(-1, 1)


def mixture_score(modes: torch.Tensor, x: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
    """∇ log q(x_t), (N, C, H, W): the data are Gaussians of deviation SPREAD around the modes, in equal shares."""
    variance = a * SPREAD**2 + 1 - a
    away = a.sqrt() * modes.flatten(1) - x.flatten(1)[:, None]  # (N, 3, D)
    weight = (-away.square().sum(2) / (2 * variance)).softmax(1)
    return ((weight[..., None] * away).sum(1) / variance).view_as(x)


class Mixture(torch.nn.Module):
    """A U-Net that predicts the noise of that mixture exactly."""

    def __init__(self, modes: torch.Tensor, scheduler: DDPMScheduler):
        super().__init__()
        self.modes, self.bars = modes, scheduler.alphas_cumprod
        self.config = types.SimpleNamespace(num_class_embeds=None, sample_size=modes.shape[-1])
        self.device = torch.device("cpu")

    def forward(self, x, t):
        eps = -mixture_score(self.modes, x, self.bars[t]) * (1 - self.bars[t]).sqrt()
        return types.SimpleNamespace(sample=eps)


def mixture(modes: torch.Tensor) -> ddpm.DDPM:
    scheduler = DDPMScheduler(1000, beta_schedule="squaredcos_cap_v2", clip_sample=False)
    return ddpm.DDPM(Mixture(modes, scheduler), scheduler)


# ---- geometry --------------------------------------------------------------------------------------------------------


def test_the_axes_are_orthonormal_and_span_the_three_pictures():
    pictures = three()
    plane = Plane.through(pictures)
    assert torch.allclose(plane.axes @ plane.axes.T, torch.eye(2), atol=1e-6)
    at = plane.coordinates(pictures)  # (3, 2)
    assert torch.allclose(plane.pictures(at), pictures, atol=1e-5), "they lie in it"
    assert torch.allclose(torch.pdist(at), torch.pdist(pictures.flatten(1)), rtol=1e-5), "and no distance changes"
    assert at[0].abs().max() < 1e-6 and abs(at[1, 1]) < 1e-5 and at[1, 0] > 0 and at[2, 1] > 0


def test_a_projection_is_the_nearest_point():
    plane, x = Plane.through(three()), torch.randn(5, 3, 8, 8)
    solved = torch.linalg.lstsq(plane.axes.T, (x - plane.origin).flatten(1).T).solution.T  # (5, 2)
    assert torch.allclose(plane.coordinates(x), solved, atol=1e-4)
    rest = (x - plane.pictures(plane.coordinates(x))).flatten(1)
    assert (rest @ plane.axes.T).abs().max() < 1e-4, "what is left stands upright on it"


def test_pictures_that_span_no_plane_are_refused():
    a, b, _ = three()
    for pictures in (torch.stack([a, a, b]), torch.stack([a, b, a]), torch.stack([a, b, a + 0.3 * (b - a)])):
        with pytest.raises(ValueError, match="same|line"):
            Plane.through(pictures)


def test_the_grid_is_square_holds_the_points_and_runs_row_by_row():
    points = torch.tensor([[0.0, 0.0], [4.0, 0.0], [1.0, 2.0]])
    grid = square(points, 4, 0.25).view(4, 4, 2)
    assert torch.allclose(grid[0, :, 0], torch.tensor([-0.25, 1.25, 2.75, 4.25]))
    assert torch.allclose(grid[:, 0, 1], torch.tensor([-1.25, 0.25, 1.75, 3.25]))
    assert torch.equal(grid[2, :, 0], grid[0, :, 0])


# ---- a mixture whose score is known ----------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [50, 500, 900])
def test_the_field_of_a_mixture_is_its_closed_form(t):
    pictures = three()
    first, whole = field.fields(mixture(pictures), pictures, t, "any", seed=0)
    a, plane = mixture(pictures).scheduler.alphas_cumprod[t], Plane.through(pictures)
    assert first.points.shape == (field.GRID**2, 2) and first.paths.shape[0] == 0
    # in the plane by itself: the same mixture of Gaussians of two numbers, since the modes lie in it
    modes, x = torch.from_numpy(first.corners), a.sqrt() * torch.from_numpy(first.points)
    expected = mixture_score(modes, x, a).numpy()
    assert np.allclose(first.slopes, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
    assert first.share == pytest.approx(1, abs=1e-2), "nothing points out of the plane"
    # by differences of the log density along the two axes
    variance, step = a * SPREAD**2 + 1 - a, 1e-3

    def log_density(points):
        apart = a.sqrt() * modes - points[:, None]
        return (-apart.square().sum(2) / (2 * variance)).double().logsumexp(1)

    for axis in torch.eye(2):
        slope = (log_density(x.double() + step * axis) - log_density(x.double() - step * axis)) / (2 * step)
        assert np.allclose(first.slopes @ axis.numpy(), slope, rtol=2e-3, atol=1e-3 * np.abs(expected).max())
    assert whole.paths.shape == (9, field.CHAIN_STEPS + 1, 2)
    starts = first.points.reshape(field.GRID, field.GRID, 2)[np.ix_(field.STARTS, field.STARTS)].reshape(-1, 2)
    assert np.allclose(whole.paths[:, 0], starts, atol=1e-5) and plane.axes.shape == (2, 192)


def test_what_points_out_of_the_plane_is_left_out_of_arrows_and_said():
    pictures = three()
    plane = Plane.through(pictures)
    upright = torch.randn(pictures[0].shape)
    upright = upright - (plane.along(upright[None]) @ plane.axes).view_as(upright)
    slopes, lengths = scores(plane, lambda x: x * 0 + upright + plane.axes[1].view_as(upright), torch.tensor(0.5),
                             torch.zeros(40, 2))  # fmt: skip
    assert torch.allclose(slopes, torch.tensor([0.0, 1.0]).expand(40, 2), atol=1e-4)
    assert torch.allclose(lengths, (upright.square().sum() + 1).sqrt().expand(40))


def test_chains_are_langevins_steps_with_noise_in_the_plane():
    pictures, a = three(), torch.tensor(0.3)
    plane = Plane.through(pictures)
    starts, draw = torch.tensor([[1.0, 2.0], [-3.0, 0.5]]), torch.Generator().manual_seed(7)
    path = chains(plane, lambda x: mixture_score(pictures, x, a), a, starts, 3, torch.Generator().manual_seed(7))
    x, modes = a.sqrt() * starts, plane.coordinates(pictures)
    for k in range(3):
        x = samplers.langevin(x, mixture_score(modes, x, a), a, torch.randn(2, 2, generator=draw))
        assert torch.allclose(path[:, k + 1], x / a.sqrt(), atol=1e-4)
    assert torch.equal(path[:, 0], starts)


def test_long_chains_sample_the_mixture_that_the_plane_cuts_out():
    one, a = three()[:1], torch.tensor(0.5)  # one mode: what is cut out is a Gaussian of the same variance
    plane = Plane.through(three())
    starts = torch.zeros(4000, 2)
    path = chains(plane, lambda x: mixture_score(one, x, a), a, starts, 30, torch.Generator().manual_seed(0))
    variance, size = a * SPREAD**2 + 1 - a, samplers.LANGEVIN_SIZE * (1 - a)
    long_run = size / (1 - (1 - size / (2 * variance)) ** 2)  # of the discrete chain: AR(1)
    assert torch.allclose((a.sqrt() * path[:, -1]).var(0), long_run.expand(2), rtol=0.08)


def test_look_is_the_score_of_the_model_at_any_picture():
    pictures = three()
    model, x = mixture(pictures), torch.randn(4, 3, 8, 8)
    a = model.scheduler.alphas_cumprod[300]
    assert torch.allclose(model.look(x, 300).score, mixture_score(pictures, x, a), atol=1e-4)
    with pytest.raises(ValueError, match="t 1000"):
        model.look(x, 1000)


# ---- the plot, the API, the page -------------------------------------------------------------------------------------


def test_an_arrow_points_up_where_the_slope_does_and_colours_go_with_length():
    points = square(torch.tensor([[0.0, 0.0], [1.0, 1.0]]), 2, 0.5).numpy()
    slopes = np.array([[0, 1.0], [0, 2.0], [0, 3.0], [0, 0.0]])
    none, pixels = np.zeros((0, 1, 2)), np.zeros((3, 8, 8, 3), np.uint8)
    svg = plot.plane_svg(points, slopes, np.zeros((3, 2)), pixels, none, "<b>")
    ways = re.findall(r'stroke="(#\w+)" d="M([\d.]+) ([\d.]+)L([\d.]+) ([\d.]+)', svg)
    assert [way[0] for way in ways] == [plot.colour(share) for share in (1 / 3, 2 / 3, 1, 0)]
    for _, x, y, tip_x, tip_y in ways[:3]:
        assert x == tip_x and float(tip_y) < float(y)
    assert float(ways[0][2]) > float(ways[2][2]), "the first row is at the bottom"
    assert "<b>" not in svg and plot.colour(0) == "#0d9488" and plot.colour(1) == "#dc2626"


def test_the_api_returns_pictures_and_the_field_and_refuses_what_cannot_be(serve, model, tmp_path):
    client = Client(serve(app.build({"tiny": model})), verbose=False, download_files=str(tmp_path))
    gallery, said = client.predict(**ASKED, api_name="/ddpm_field")
    assert [each["caption"] for each in gallery] == ["face, 3", "food, 4", "flag, 5"] and said["t"] == 200
    assert ddpm.RECEIPT_KEY in Image.open(gallery[0]["image"]).text
    assert np.shape(said["points"]) == np.shape(said["scores"]) == (169, 2) and np.shape(said["chains"]) == (9, 17, 2)
    pictures = torch.cat([model.to_tensor(Image.open(each["image"])) for each in gallery])
    plane, a = Plane.through(pictures), model.scheduler.alphas_cumprod[200]
    assert np.allclose(plane.coordinates(pictures), said["pictures"], atol=0.1)
    slopes, lengths = scores(plane, lambda x: model.look(x, 200, "any").score, a, torch.tensor(said["points"]))
    assert np.allclose(lengths, said["lengths"], rtol=0.02), "of pictures rounded to bytes"
    for change, words in (
        ({"third": "moon"}, "Class must be one of: any, face"),
        ({"label": "moon"}, "Class must be one of: any, face"),
        ({"t": 300}, "t must be a whole number from 0 to 299"),
        ({"seed": 1.5}, "Seed must be a whole number"),
    ):
        with pytest.raises(AppError, match=words):
            client.predict(**(ASKED | change), api_name="/ddpm_field")


def test_three_pictures_on_a_line_are_refused_in_words(model):
    made = field.Fields(Desk({"tiny": model}))
    drawn = made.three("tiny", made.order("tiny", "face", "food", "flag", 3), None)
    flat = field.Three("tiny", drawn.captions, drawn.x[[0, 0, 1]])
    with pytest.raises(values.InputError, match="There is no plane to show: the first two pictures are the same"):
        list(made.fields(flat, 200, "any"))


def test_a_level_at_which_nothing_is_left_is_refused_in_words(model):
    bare = DDPMScheduler(300, prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing")
    assert bare.alphas_cumprod[-1] == 0
    bare = ddpm.DDPM(model.unet, bare, label_names=model.label_names, null_label=3, name="bare")
    made = field.Fields(Desk({"bare": bare}))
    drawn = field.Three("bare", [("face", "1")] * 3, three().numpy())
    with pytest.raises(values.InputError, match="at t = 299 nothing is left of the pictures"):
        list(made.fields(drawn, 299, "any"))


def test_a_model_without_classes_has_a_field_too():
    torch.manual_seed(0)
    scheduler = DDPMScheduler(300, prediction_type="v_prediction", timestep_spacing="trailing")
    plain = ddpm.DDPM(tiny_models.unet(classes=None), scheduler, name="plain", weights_sha256="0" * 64)
    app.build({"plain": plain})
    made = field.Fields(Desk({"plain": plain}))
    drawn = made.three("plain", made.order("plain", "any", "any", "any", 3), None)
    *_, whole = made.fields(drawn, 100, "any")
    assert np.isfinite(whole.slopes).all() and np.isfinite(whole.paths).all() and drawn.captions[2] == ("picture", "5")


def test_a_field_that_was_drawn_is_remembered(model):
    made, asked = field.Fields(Desk({"tiny": model})), []
    counted = model.unet.register_forward_pre_hook(lambda *_: asked.append(1))
    drawn = made.three("tiny", made.order("tiny", "face", "food", "flag", 3), None)
    *_, first = made.fields(drawn, 200, "any")
    before = len(asked)
    [again] = made.fields(drawn, 200, "any")
    counted.remove()
    assert again is first and len(asked) == before > 0


def arrows(page) -> list:
    return page.eval_on_selector_all("#ddpm-field svg path", "all => all.map((path) => path.getAttribute('d'))")


def test_moving_t_changes_the_field_in_a_browser(serve, page, model):
    page.goto(serve(app.build({"tiny": model})))
    page.get_by_role("tab", name="Score field").click()
    page.locator("#ddpm-field-draw").click()
    page.wait_for_selector("#ddpm-field svg polyline.path")
    before = arrows(page)
    assert len(before) == field.GRID**2 and page.locator("#ddpm-field svg polyline.path").count() == 9
    assert page.locator("#ddpm-field svg image").count() == 3
    assert "t = 180" in page.get_attribute("#ddpm-field svg", "aria-label")
    assert "3 flag, seed 2" in page.inner_text("#ddpm-field")
    page.locator("#ddpm-field-t input[type=range]").fill("60")
    page.wait_for_function("() => document.querySelector('#ddpm-field svg').ariaLabel.includes('t = 60 ')")
    page.wait_for_selector("#ddpm-field svg polyline.path")
    after = arrows(page)
    assert len(after) == len(before) and sum(a != b for a, b in zip(before, after, strict=True)) > len(before) / 2
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_timeout(300)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
