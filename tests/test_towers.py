"""Towers say the same in the forms of transformers and of timm, and new models may begin as one."""

import pytest
import timm
import torch
from timm.layers import resample_abs_pos_embed
from transformers import DPTConfig, DPTModel, SwinConfig, SwinModel, ViTConfig, ViTModel

from hub_models import classifier as contract
from hub_models import store
from training import beginnings, classifier, towers

SIZES = {"embed_dim": 12, "depths": (1, 2, 1), "num_heads": (2, 2, 4), "window_size": 4, "patch_size": 2}


VIT_CONFIG = ViTConfig(image_size=32, patch_size=8, hidden_size=24, num_hidden_layers=2, num_attention_heads=3,
                       intermediate_size=48, layer_norm_eps=1e-6)  # fmt: skip


def swin(**options) -> SwinModel:
    torch.manual_seed(0)
    model = SwinModel(SwinConfig(image_size=32, **SIZES, **options)).eval()
    for parameter in model.parameters():  # biases and norms of a fresh one say nothing
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def test_both_forms_give_the_same_features():
    ours = swin()
    args, weights = towers.as_timm(ours)
    model = timm.create_model(towers.NAME, num_classes=5, **args).eval()
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert missing == ["head.fc.weight", "head.fc.bias"] and unexpected == []
    pixels = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        expected = ours(pixels).pooler_output  # (3, 48)
        features = model.forward_head(model.forward_features(pixels), pre_logits=True)
    torch.testing.assert_close(features, expected, atol=1e-4, rtol=1e-4)


def test_absolute_positions_are_refused():
    with pytest.raises(SystemExit, match="absolute positions"):
        towers.as_timm(swin(use_absolute_embeddings=True))


def vit(**options) -> torch.nn.Module:
    torch.manual_seed(0)
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 6, "num_heads": 3, "num_classes": 5}
    model = timm.create_model("vit_tiny_patch16_224", **(sizes | options)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def test_a_vit_is_the_same_in_transformers():
    ours = vit()
    args, weights = towers.as_transformers(ours, side_px=32)
    assert args["backbone_out_indices"] == [1, 2, 4, 5] and args["layer_norm_eps"] == 1e-6
    model = DPTModel(DPTConfig(**args), add_pooling_layer=False).eval()
    model.load_state_dict(weights)
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model(pixels).last_hidden_state, ours.forward_features(pixels), atol=1e-4, rtol=1e-4)


def test_a_vit_gets_positions_for_other_sizes():
    """As timm makes them where it opens the same weights at another size."""
    args, weights = towers.as_transformers(vit(), side_px=64)
    larger = vit(img_size=64)
    larger.load_state_dict(vit().state_dict() | {"pos_embed": larger.pos_embed})
    larger.pos_embed.data = resample_abs_pos_embed(vit().pos_embed.data, [8, 8])
    model = DPTModel(DPTConfig(**args), add_pooling_layer=False).eval()
    model.load_state_dict(weights)
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(
            model(pixels).last_hidden_state, larger.forward_features(pixels), atol=1e-4, rtol=1e-4
        )


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (lambda: timm.create_model("resnet10t"), "a ResNet"),
        (lambda: vit(class_token=False, global_pool="avg"), "a VisionTransformer"),
        (lambda: vit(init_values=0.1), "has blocks.0.ls1.gamma"),
    ],
)
def test_what_is_no_plain_vit_is_refused(model, said):
    with pytest.raises(SystemExit, match=said):
        towers.as_transformers(model(), side_px=32)


def test_a_side_that_is_no_whole_number_of_patches_is_refused():
    with pytest.raises(SystemExit, match="no multiple of 8"):
        towers.as_transformers(vit(), side_px=36)


def test_a_classifier_begins_as_the_tower_of_a_clip(tmp_path):
    flags = ["--preset", "tower", "--dataset_name", "emoji-sample", "--resolution", "64", "--max_train_steps", "1",
             "--train_batch_size", "4", "--dataloader_num_workers", "0", "--output_dir", str(tmp_path)]  # fmt: skip
    cfg = classifier.parse(classifier.PRESETS, flags)
    task = classifier.task_of(cfg)
    _, weights = towers.as_timm(beginnings.swin_of(store.resolve("clip", "emoji")))
    begun = task.players[0].module.state_dict()
    assert all(torch.equal(begun[name], value) for name, value in weights.items())
    classifier.main(flags)
    served = contract.load(str(tmp_path / "export"))
    assert type(served.model).__name__ == "SwinTransformer" and served.resolution_px == 64
    card = (tmp_path / "export" / "README.md").read_text(encoding="utf-8")
    assert "begun as the tower of clip/emoji" in card
    with pytest.raises(SystemExit, match="takes 64 px"):
        classifier.task_of(classifier.parse(classifier.PRESETS, [*flags, "--resolution", "96"]))


@pytest.mark.parametrize("model", [swin, lambda: ViTModel(VIT_CONFIG)])
def test_there_and_back_is_the_same_tower(model):
    """A Swin and a ViT of transformers in timm, and that in transformers again: to the bit, and with equal features."""
    torch.manual_seed(0)
    ours = model().eval()
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    is_swin = isinstance(ours, SwinModel)
    args, weights = towers.as_timm(ours) if is_swin else towers.vit_as_timm(ours)
    theirs = timm.create_model(towers.NAME if is_swin else towers.VIT_NAME, num_classes=0, **args).eval()
    theirs.load_state_dict(weights)
    again = towers.in_transformers(theirs).eval()
    for name, value in again.state_dict().items():
        assert name.startswith("pooler.") or torch.equal(value, ours.state_dict()[name]), name
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        states = theirs.forward_features(pixels)
        states = states.flatten(1, 2) if is_swin else states
        torch.testing.assert_close(states, ours(pixels).last_hidden_state, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(again(pixels).last_hidden_state, states, atol=1e-4, rtol=1e-4)


def test_what_has_no_form_in_transformers_is_refused():
    with pytest.raises(SystemExit, match="a norm after its pooling"):
        towers.in_transformers(vit(global_pool="avg"))
    small = timm.create_model(towers.NAME, img_size=16, patch_size=2, window_size=4, embed_dim=12, depths=(1, 1, 1),
                              num_heads=(2, 2, 4), num_classes=0)  # fmt: skip
    with pytest.raises(SystemExit, match="differ from stage to stage"):
        towers.in_transformers(small)
