"""Where a place looks, head by head: against transformers' own attention, the layers' own outputs, and windows."""

import numpy as np
import pytest
import timm
import tiny_models
import torch
from PIL import Image

from hub_models import attention, pretrain
from training import towers

SWIN = {"img_size": 64, "window_size": 4, "embed_dim": 16, "depths": (2, 2, 2), "num_heads": (2, 2, 4)}
ODD = SWIN | {"img_size": 56}  # 14, 7 and 4 tokens a side: not whole windows
VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2}
KINDS = {"swin": ("swin_tiny_patch4_window7_224", SWIN), "odd": ("swin_tiny_patch4_window7_224", ODD),
         "vit": ("vit_tiny_patch16_224", VIT)}  # fmt: skip


def tower(kind: str, **more) -> pretrain.Tower:
    torch.manual_seed(0)
    name, sizes = KINDS[kind]
    model = timm.create_model(name, num_classes=0, **(sizes | more)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.pretrained_cfg = dict(model.pretrained_cfg) | {"input_size": (3, sizes["img_size"], sizes["img_size"])}
    return pretrain.Tower(model, name=kind)


PICTURE = Image.radial_gradient("L").convert("RGB").rotate(20)


@pytest.mark.parametrize("kind", ["vit", "swin"])
def test_heads_are_those_of_transformers(kind):
    ours = tower(kind)
    theirs = towers.in_transformers(ours.model).eval()
    theirs.set_attn_implementation("eager")
    found: list[torch.Tensor] = []  # a Swin of transformers gives those of one block a stage: taken from each layer
    for module in theirs.modules():
        if type(module).__name__ in ("ViTAttention", "SwinAttention"):
            module.register_forward_hook(lambda module, given, made: found.append(made[1]))
    with torch.no_grad():
        theirs(ours.preprocess([PICTURE]))
    assert ours.depth == len(found) == (3 if kind == "vit" else 6)
    for number, weights in enumerate(found, 1):  # (1, A, N, N), or (W, A, T, T)
        seen = ours.looked(PICTURE, number, 0.3, 0.8)
        h, w = seen.block.groups.shape
        row, column = seen.cell
        assert (row, column) == (int(0.3 * h), int(0.8 * w)) and seen.number == number and seen.of == len(found)
        if kind == "vit":
            expected = weights[0, :, 1 + row * w + column, 1:].reshape(-1, h, w)
            np.testing.assert_allclose(seen.elsewhere, weights[0, :, 1 + row * w + column, 0], atol=1e-5)
        else:
            down, right = seen.block.shift
            at = (row - down) % h, (column - right) % w  # after the shift
            window = at[0] // 4 * (w // 4) + at[1] // 4
            inside = weights[window, :, at[0] % 4 * 4 + at[1] % 4].reshape(-1, 4, 4)
            expected = torch.zeros(len(inside), h, w)
            for y, x in np.ndindex(4, 4):
                place = (at[0] // 4 * 4 + y + down) % h, (at[1] // 4 * 4 + x + right) % w
                expected[:, place[0], place[1]] = inside[:, y, x]
            assert seen.elsewhere.max() < 1e-5
        np.testing.assert_allclose(seen.heads, expected, atol=1e-5)
        assert np.ptp(seen.heads[:, seen.reachable], 1).max() > 0.01, "it tells places apart"


@pytest.mark.parametrize("kind", ["odd", "swin", "vit"])
def test_attention_times_values_is_what_the_layer_gives(kind):
    ours, kept = tower(kind), {}
    blocks = [block for stage in getattr(ours.model, "layers", []) for block in stage.blocks] or ours.model.blocks
    hooks = [block.attn.register_forward_hook(lambda m, x, y, k=k: kept.update({k: (x[0], y)}))
             for k, block in enumerate(blocks, 1)]  # fmt: skip
    with torch.no_grad():
        ours.model(ours.preprocess([PICTURE]))
    for hook in hooks:
        hook.remove()
    for number, block in enumerate(blocks, 1):
        x, y = kept[number]
        layer = block.attn
        if kind == "vit":
            weights = attention.probabilities(layer, x)
        else:
            weights = attention.in_windows(layer, x, block.attn_mask)
        values = layer.qkv(x).unflatten(-1, (3, layer.num_heads, -1))[:, :, 2].transpose(1, 2)  # (B, A, N, D)
        torch.testing.assert_close(layer.proj((weights @ values).transpose(1, 2).flatten(2)), y, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["odd", "swin", "vit"])
def test_a_place_looks_nowhere_but_where_it_can(kind):
    ours = tower(kind)
    for number in range(1, ours.depth + 1):
        seen = ours.looked(PICTURE, number, 0.99, 0)
        assert seen.cell == (seen.block.groups.shape[0] - 1, 0) and seen.reachable[seen.cell]
        assert np.array_equal(seen.heads.max(0) > 1e-12, seen.reachable), "all of its window, and nothing else"
        np.testing.assert_allclose(seen.heads.sum((1, 2)) + seen.elsewhere, 1, atol=1e-5)
        assert kind == "vit" or (number == 1) <= (not seen.reachable.all())


def test_the_place_at_the_end_is_the_last_and_what_has_no_heads_says_so(tmp_path):
    assert tower("vit").looked(PICTURE, 3, 1.0, 1.0).cell == (3, 3)
    for number in (0, 4):
        with pytest.raises(ValueError, match="blocks 1 to 3"):
            tower("vit").looked(PICTURE, number, 0, 0)
    net = pretrain.Tower(timm.create_model("test_resnet", num_classes=0).eval())
    assert net.depth == 0
    with pytest.raises(ValueError, match="a ResNet has no attention between places"):
        net.looked(PICTURE, 1, 0, 0)
    version_2 = timm.create_model("swinv2_tiny_window8_256", num_classes=0, img_size=32, window_size=4, embed_dim=16,
                                  depths=(1, 1), num_heads=(1, 1))  # fmt: skip
    assert attention.depth(version_2) == 0, "its attention is of another kind"


def test_token_maps_of_several_pictures_are_those_of_each():
    for kind in ("vit", "swin"):
        ours = tower(kind)
        pictures = [PICTURE, Image.new("RGB", (9, 20), "red")]
        together = ours.token_maps(pictures)
        alone = [ours.token_maps([picture]) for picture in pictures]
        assert [maps.shape[1] for maps in together] == ([4, 4, 4] if kind == "vit" else [16, 8, 4])
        for layer, maps in enumerate(together):
            for k in range(2):
                np.testing.assert_allclose(maps[k], alone[k][layer][0], atol=1e-3)


def test_an_untrained_tower_has_the_architecture_and_other_weights(tmp_path):
    for kind, made in (
        ("vit", tiny_models.tower(tmp_path / "vit")),
        ("classes", tiny_models.classifier(tmp_path / "c")),
    ):
        tower = pretrain.load(str(made), device="cpu")
        assert tower.folder == made
        fresh, again, other = (pretrain.untrained(made, seed) for seed in (0, 0, 1))
        mine, theirs = tower.model.state_dict(), fresh.state_dict()
        assert {k: v.shape for k, v in mine.items()} == {k: v.shape for k, v in theirs.items()}, kind
        assert all(torch.equal(v, again.state_dict()[k]) for k, v in theirs.items())
        assert any(not torch.equal(v, other.state_dict()[k]) for k, v in theirs.items())
        assert any(not torch.equal(v, mine[k]) for k, v in theirs.items())
