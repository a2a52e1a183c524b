"""What a classifier decides from, against references: differences, hands, and what autograd says a patch has seen."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from test_ui import noise
from torch import nn

from hub_models import classifier, components, explain, windows

VIT = ("vit_tiny_patch16_224", dict(img_size=32, patch_size=8, embed_dim=32, depth=3, num_heads=2))
SWIN = dict(patch_size=4, window_size=4, embed_dim=16, depths=(2, 2, 2), num_heads=(1, 2, 2))
SWINS = {
    "swin": ("swin_tiny_patch4_window7_224", SWIN | dict(img_size=64)),
    "swin whose windows are padded": ("swin_tiny_patch4_window7_224", SWIN | dict(img_size=56)),
    "swin v2": ("swinv2_tiny_window8_256", SWIN | dict(img_size=64)),
}
LABELS = ["a", "b", "c"]


def tiny(name: str, arguments: dict, dtype=torch.float64, factor: float = 4) -> nn.Module:
    """A random model that is sure of something: fresh ones are nearly indifferent."""
    torch.manual_seed(3)
    model = timm.create_model(name, num_classes=len(LABELS), **arguments)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.endswith("weight") and not parameter.any():
                parameter.uniform_(0.5, 1)  # some begin with parts that do nothing
            elif parameter.ndim >= 2 and "embed" not in key:
                parameter.mul_(factor)
    return model.to(dtype).eval().requires_grad_(False)


def served(model: nn.Module, side: int = 224) -> classifier.Classifier:
    model.pretrained_cfg = model.pretrained_cfg | {"input_size": (3, side, side)}
    return classifier.Classifier(model.float(), LABELS, name="tiny", weights_sha256="0" * 64)


# ---- gradients -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [VIT, SWINS["swin"]], ids=["vit", "swin"])
def test_saliency_is_the_largest_slope_over_a_pixels_channels(kind):
    model, side = tiny(*kind), kind[1]["img_size"]
    mean, std = torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1), torch.tensor([0.2, 0.3, 0.4]).view(3, 1, 1)
    picture, step = torch.rand(3, side, side, dtype=torch.float64), 1e-4
    found = explain.saliency(model, ((picture - mean) / std)[None], 1, std)
    assert found.shape == (side, side) and found.dtype == np.float32
    for row, column in np.random.default_rng(0).integers(0, side, (8, 2)):
        slopes = []
        for channel in range(3):
            either = picture.repeat(2, 1, 1, 1)
            either[:, channel, row, column] += torch.tensor([step, -step])
            more, less = model((either - mean) / std)[:, 1]
            slopes.append(abs((more - less) / (2 * step)).item())
        assert found[row, column] == pytest.approx(max(slopes), rel=1e-4)


class ByHand(nn.Module):
    """Two maps of a picture, its red and its green; classes 3 · mean(red) - mean(green)², and one of nothing."""

    num_features = 2

    def forward_features(self, x):
        return x[:, :2]

    def forward_head(self, x):
        red, green = x.mean((2, 3)).T
        return torch.stack([3 * red - green**2, 0 * red], 1)


def test_grad_cam_by_hand():
    red, green = torch.tensor([[4.0, 0.0], [0.0, 8.0]]), torch.tensor([[1.0, 3.0], [2.0, 2.0]])
    x = torch.stack([red, green, torch.zeros(2, 2)])[None]
    # slopes: 3 / 4 at each place of red, -2 · 2 / 4 at each of green: weights 0.75 and -1
    assert explain.grad_cam(ByHand(), x, 0).tolist() == [[2, 0], [0, 4]]
    with pytest.raises(ValueError, match="doesn't depend"):
        explain.grad_cam(ByHand(), x, 1)


@pytest.mark.parametrize("name", ["swin", "tf_efficientnet_lite0", "resnet10t"])
def test_grad_cam_before_a_mean_and_a_linear_layer_is_its_weights(name):
    """Zhou et al. 2016: with these the slopes are the class's weights over the number of places."""
    model = tiny(*SWINS.get(name, (name, {})), torch.float32)
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        features = model.forward_features(x)[0]
    features = features if name == "swin" else features.permute(1, 2, 0)  # (h, w, D)
    linear = model.get_classifier()
    expected = (features @ linear.weight[2]).relu() / features.shape[0] ** 2
    found = explain.grad_cam(model, x, 2)
    assert found.max() > 0
    np.testing.assert_allclose(found, expected, atol=1e-5 * float(expected.max()))


@pytest.mark.parametrize("more", [{}, {"global_pool": "avg", "class_token": False}], ids=["class token", "mean"])
def test_grad_cam_of_a_vit_is_of_the_patches_that_its_answer_is_made_of(more):
    model, x, seen = tiny(VIT[0], VIT[1] | more), torch.rand(1, 3, 32, 32, dtype=torch.float64), []

    def keep(_, given, made):
        seen.append(given[0] if not more else made)
        seen[0].retain_grad()

    at = model.norm if more else model.blocks[-1]
    handle = (
        at.register_forward_hook(keep) if more else at.register_forward_pre_hook(lambda m, given: keep(m, given, 0))
    )
    model(x.requires_grad_())[0, 1].backward()
    handle.remove()
    patches, slopes = (part[0, -16:].view(4, 4, -1).detach() for part in (seen[0], seen[0].grad))
    expected = (patches @ slopes.mean((0, 1))).relu()
    assert expected.max() > 0
    np.testing.assert_allclose(explain.grad_cam(model, x.detach(), 1), expected, rtol=1e-4, atol=1e-9)


def test_maps_of_a_model_without_places_are_refused_in_words():
    class Flat(nn.Module):
        def forward_features(self, x):
            return x.mean((2, 3))

        def forward_head(self, x):
            return x

    with pytest.raises(ValueError, match="a Flat is no map"):
        explain.grad_cam(Flat(), torch.rand(1, 3, 8, 8), 0)
    with pytest.raises(ValueError, match="a Flat of timm doesn't show"):
        explain.token_maps(Flat(), torch.rand(1, 3, 8, 8))


# ---- what a patch has seen -------------------------------------------------------------------------------------------


def outputs(model: nn.Module, x: torch.Tensor):
    """What comes out of each block, (h, w, D), from a plain run through the model's own modules."""
    if hasattr(model, "layers"):
        x = model.patch_embed(x)
        for layer in model.layers:
            x = layer.downsample(x)
            for block in layer.blocks:
                x = block(x)
                yield x[0]
    else:
        x = explain.embedded(model, x)
        for block in model.blocks:
            x = block(x)
            yield x[0, -16:].view(4, 4, -1)


@pytest.mark.parametrize("kind", [VIT, *SWINS.values()], ids=["vit", *SWINS])
def test_a_patch_has_seen_those_that_its_token_has_a_gradient_of(kind):
    model, patch = tiny(*kind, factor=1), kind[1]["patch_size"]
    x = torch.rand(1, 3, kind[1]["img_size"], kind[1]["img_size"], dtype=torch.float64, requires_grad=True)
    found, patches = windows.blocks(model), tuple(model.patch_embed.grid_size)
    places = [(0, 0), (1, 5), (patches[0] - 1, 2), (patches[0] // 2, patches[1] // 2), (patches[0] - 1,) * 2]
    places = [place for place in places if max(place) < patches[0]]
    made, shares = list(outputs(model, x)), []
    assert len(made) == len(found)
    for number, tokens in enumerate(made, 1):
        assert tokens.shape[:2] == found[number - 1].groups.shape
        for row, column in places:
            merged = windows._merges(patches, tokens.shape[:2])
            token = tokens[row >> merged, column >> merged]
            [slopes] = torch.autograd.grad((token * torch.randn(token.shape)).sum(), x, retain_graph=True)
            of_patches = slopes[0].abs().amax(0).view(patches[0], patch, patches[1], patch).amax((1, 3))
            # what is masked has a weight of exp(-100), 4e-44, and so has its gradient
            expected = (of_patches > 1e-25).numpy()
            np.testing.assert_array_equal(windows.region(found[:number], patches, row, column), expected)
            shares.append(expected.mean())
    assert max(shares) == 1 and (kind is VIT or min(shares) < 0.2), "from a window to all of it"


def test_before_the_first_block_a_patch_knows_itself():
    seen = windows.region([], (4, 6), 1, 5)
    assert seen.shape == (4, 6) and seen.sum() == 1 and seen[1, 5]
    for place in ((4, 0), (0, 6), (-1, 0)):
        with pytest.raises(ValueError, match="no patch in row"):
            windows.region([], (4, 6), *place)


def test_windows_by_hand():
    """Swin, fig. 4: windows of 4 over 8 × 8, shifted by 2: a window in the middle, halves and quarters around it."""
    plain, shifted = windows.blocks(tiny(*SWINS["swin"]))[2:4]
    assert (plain.stage, plain.number, plain.of, plain.window, plain.shift) == (2, 1, 2, (4, 4), (0, 0))
    assert (shifted.number, shifted.shift) == (2, (2, 2))
    sizes = [sorted(np.unique(block.groups, return_counts=True)[1].tolist()) for block in (plain, shifted)]
    assert sizes == [[16] * 4, [4] * 4 + [8] * 4 + [16]]
    assert len(set(shifted.groups[2:6, 2:6].ravel())) == 1 and shifted.groups[0, 0] != shifted.groups[7, 7]


def test_a_token_stands_for_the_patches_that_it_was_merged_from():
    values = np.arange(16).reshape(4, 4)
    over = windows.over_patches(values, (7, 7))  # 7 → 4
    assert over.shape == (7, 7) and over[5, 2] == values[2, 1] and over[6, 6] == values[3, 3]
    assert np.argwhere(windows.standing_for((4, 4), (7, 7), 6, 3)).tolist() == [[6, 2], [6, 3]]
    assert np.argwhere(windows.standing_for((2, 2), (7, 7), 6, 3)).tolist() == [
        [row, column] for row in range(4, 7) for column in range(4)
    ]


def test_a_network_of_convolutions_has_no_windows():
    with pytest.raises(ValueError, match="a ResNet has neither Swin's windows nor a plain ViT's patches"):
        windows.blocks(tiny("resnet10t", {}))


# ---- tokens ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arguments", "sides"),
    [
        (*VIT, [4, 4, 4]),
        (*SWINS["swin"], [16, 8, 4]),
        (*SWINS["swin v2"], [16, 8, 4]),
        ("tf_efficientnet_lite0", {}, [112, 56, 28, 14, 7]),
        ("resnet10t", {}, [112, 56, 28, 14, 7]),
        ("convnext_atto", {}, [56, 28, 14, 7]),
        ("mixer_s32_224", {}, [7] * 8),
    ],
)
def test_every_classifier_shows_its_tokens_and_grad_cam(name, arguments, sides):
    model = served(tiny(name, arguments, torch.float32), arguments.get("img_size", 224))
    maps = model.token_maps(noise())
    side = [each.shape[0] for each in maps]
    assert side == [each.shape[1] for each in maps] == model.layers and side[-1] == sides[-1]
    if name != "resnet10t" and name != "convnext_atto":
        assert side == sides
    assert all(each.dtype == np.float32 and each.ndim == 3 for each in maps)
    assert model.grad_cam(noise(), "b").ndim == 2 and model.saliency(noise(), "b").shape == (model.resolution_px,) * 2
    with pytest.raises(ValueError, match="'d' is not a label of tiny: one of a, b, c"):
        model.saliency(noise(), "d")
    with pytest.raises(ValueError, match="not a label"):
        model.grad_cam(noise(), "d")


def test_tokens_are_what_a_block_gives():
    model, kept = served(tiny(*VIT), 32), []
    handle = model.model.blocks[1].register_forward_hook(lambda _, __, made: kept.append(made))
    picture = Image.radial_gradient("L").convert("RGB")
    maps = model.token_maps(picture)
    handle.remove()
    np.testing.assert_array_equal(maps[1].reshape(16, -1), kept[0][0, 1:])
    seen = explain.likeness(maps[1][2, 3], maps[1])
    expected = torch.cosine_similarity(torch.tensor(maps[1]), torch.tensor(maps[1][2, 3]), dim=-1)
    np.testing.assert_allclose(seen, expected, atol=1e-5)
    assert seen[2, 3] == pytest.approx(1) and seen.min() < 0.9
    assert (explain.likeness(np.zeros(32, np.float32), maps[1]) == 0).all()


def test_a_basis_gives_its_own_rows_the_whole_range_of_colours():
    rows = np.random.default_rng(0).normal(size=(400, 7)) * [9, 5, 3, 0.1, 0.1, 0.1, 0.1]
    pca = components.fitted(rows)
    painted = components.colours(rows.reshape(20, 20, 7), pca)
    assert painted.shape == (20, 20, 3) and painted.dtype == np.uint8
    for channel in painted.reshape(-1, 3).T:
        assert all(8 <= (channel == end).sum() <= 12 for end in (0, 255))  # 2 % outside, and some there
    assert components.colours(rows.reshape(20, 20, 7), None) is None
    assert components.colours(np.zeros((2, 2, 5)), pca) is None
    with pytest.raises(ValueError, match="finite"):
        components.fitted(np.full((4, 3), np.nan))
