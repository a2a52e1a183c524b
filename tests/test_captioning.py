"""training/captioning: captions of scenes against the layout, scores by hand, the loss, the tower, and fine-tuning."""

import dataclasses
import json
import math
import random

import numpy as np
import pytest
import tiny_models
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw

from hub_models import captioning as contract
from hub_models import clip, store
from hub_models.publish import halves
from training import captioning, metrics
from training.data import captions
from training.data.captions import RELATIONS, core, holds, read_layout, relation, scene_caption
from training.data.scenes import SceneObject, Scenes
from training.data.sources import open_source
from training.muon import Muon

TINY = captioning.PRESETS["tiny"]


def thing(
    name: str, box: tuple[int, int, int, int], z: int = 0, visible: int | None = None, label: int = 1
) -> SceneObject:
    centre = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
    area = (box[2] - box[0]) * (box[3] - box[1])
    return SceneObject(name, label, box, centre, visible or area, 0, z)


CAT, PIZZA = thing("cat face", (5, 10, 50, 52), 1), thing("pizza", (60, 10, 100, 50), 0)
CAR, MOON = thing("blue car", (55, 70, 85, 100), 2), thing("new moon", (70, 20, 90, 40), 3)
SCENE = [PIZZA, CAT, CAR]


# --- Captions of scenes, and the way back -----------------------------------------------------------------------------


def test_a_caption_says_what_is_where():
    assert scene_caption(SCENE) == "a cat face to the left of a pizza, a blue car below"
    assert scene_caption([CAR]) == "a blue car"
    assert scene_caption([PIZZA, MOON]) == "a pizza partly behind a new moon"
    assert scene_caption([*SCENE, thing("ant", (0, 0, 3, 3))]) == scene_caption(SCENE), "the largest three"
    forms = {scene_caption(SCENE, random.Random(seed)) for seed in range(300)}
    assert len(forms) == 12  # six orders in two forms
    assert "a blue car below a pizza, a cat face to the left" in forms


def test_layouts_are_read_back():
    assert read_layout(scene_caption(SCENE)) == (
        ["cat face", "pizza", "blue car"],
        [(0, "to the left of", 1), (2, "below", 1)],
    )
    assert read_layout("a pizza, and a cat face to the left of it, a blue car in front") == (
        ["pizza", "cat face", "blue car"],
        [(1, "to the left of", 0), (2, "in front of", 1)],
    )
    assert read_layout("a red apple, noto style") == (["red apple"], [])
    assert read_layout("sun behind cloud above the flag of Réunion") == (
        ["sun behind cloud", "flag of reunion"],
        [(0, "above", 1)],
    )
    assert read_layout("") == read_layout(" , ,") == ([], [])
    assert read_layout("a dog to the left") == (["dog"], [])


def test_what_stays_of_a_caption():
    for text in (
        "Red apple",
        "a red apple.",
        "An emoji of a RED-apple in noto style",
        "the red apple, 3d fluent style",
    ):
        assert core(text) == "red apple"
    assert core("a") == "a" and core("") == "" and core("an emoji of") == "emoji of"
    assert core("flag: Côte d’Ivoire").split()[0] == "flag"


@pytest.mark.parametrize("which", ["train", "validation"])
def test_captions_of_painted_scenes_are_true_of_their_layout(which):
    scenes = Scenes(which, dataset_name="emoji-sample", resolution_px=64, length=80, max_objects=3)
    said = {name: 0 for name in RELATIONS}
    for index in range(len(scenes)):
        scene = scenes.scene(index)
        by_name = {core(captions.spoken(o.name)): o for o in scene.objects}
        if len(by_name) < len(scene.objects):
            continue  # two of one name: who is meant is not told
        for text in (scene_caption(scene.objects), scene_caption(scene.objects, random.Random(index))):
            things, relations = read_layout(text)
            assert sorted(things) == sorted(by_name)
            assert len(relations) == len(things) - 1
            for one, told, other in relations:
                a, b = by_name[things[one]], by_name[things[other]]
                said[told] += 1
                if told in ("in front of", "partly behind"):
                    wide = min(a.box[2], b.box[2]) - max(a.box[0], b.box[0])
                    assert wide > 0 and (a.z > b.z) == (told == "in front of")
                else:  # of the pixels themselves, by the mean of those in the mask's box
                    axis = 0 if told.startswith("to the") else 1
                    first = told in ("to the left of", "above")
                    assert (a.centre[axis] < b.centre[axis]) == first
                    assert abs(a.centre[axis] - b.centre[axis]) >= abs(a.centre[1 - axis] - b.centre[1 - axis])
    assert all(said.values()), f"not every relation was said: {said}"


def test_relations_are_each_others_opposites():
    opposite = {"to the left of": "to the right of", "above": "below", "in front of": "partly behind"}
    opposite |= {b: a for a, b in opposite.items()}
    rng = random.Random(0)
    for _ in range(300):
        boxes = []
        for _ in range(2):
            x, y = rng.randrange(90), rng.randrange(90)
            boxes.append((x, y, x + rng.randrange(5, 40), y + rng.randrange(5, 40)))
        a, b = thing("a", boxes[0], 0), thing("b", boxes[1], 1)
        told = relation(a, b)
        assert relation(b, a) == opposite[told] or told.startswith("to the") and a.centre[0] == b.centre[0]
        assert holds(told, a, b) and not holds(opposite[told], a, b)
    near = thing("c", (60, 0, 70, 10))  # 45 px to the right, 60 px above: within 60 degrees of both
    far = thing("d", (15, 60, 25, 70))
    assert relation(near, far) == "above" and holds("to the right of", near, far) and not holds("below", near, far)


def test_single_pictures_are_described_plainly_most_of_the_time():
    rng = random.Random(0)
    drawn = [captions.draw_description("red apple", ["fruit"], "noto", rng) for _ in range(400)]
    counts = {text: drawn.count(text) for text in set(drawn)}
    assert set(counts) == {"a red apple", "a red apple, noto style", "an emoji of a red apple", "a red apple, fruit"}
    assert counts["a red apple"] > 0.45 * 400 and np.mean([core(text) == "red apple" for text in drawn]) > 0.8
    assert {captions.draw_description("eyes", [], "openmoji", rng) for _ in range(50)} == {"eyes", "an emoji of eyes"}


# --- Metrics ----------------------------------------------------------------------------------------------------------


def test_cider_by_hand():
    # "a" is in every picture and weighs 0; all else weighs log 2. Runs of 3 and 4 words are in no text.
    scores = metrics.cider_d(["a cat", "a dog"], [["A cat."], ["a bird"]])
    np.testing.assert_allclose(scores, [10 * (1 + 1 + 0 + 0) / 4, 0])
    # Said twice: clipped to once of the reference, cosine 1/2; a word longer: exp(-1 / 72).
    twice = metrics.cider_d(["cat cat", "dog"], [["cat"], ["dog"]])
    np.testing.assert_allclose(twice, [10 * 0.5 * math.exp(-1 / 72) / 4, 10 / 4])
    # Two references: the mean; the other one shares nothing.
    np.testing.assert_allclose(metrics.cider_d(["cat", "dog"], [["cat", "owl"], ["dog"]])[0], 10 / 4 / 2)
    # Unequal rarity: "red" is in two of three pictures (log 3/2), "cat" in one (log 3).
    red, cat = math.log(3 / 2), math.log(3)
    scores = metrics.cider_d(["red cat", "red dog", "owl"], [["red cat"], ["red dog"], ["owl"]])
    np.testing.assert_allclose(scores, [5, 5, 2.5])
    mixed = metrics.cider_d(["red", "red dog", "owl"], [["red cat"], ["red dog"], ["owl"]])[0]
    assert mixed == pytest.approx(10 * math.exp(-1 / 72) * red * red / (red * math.hypot(red, cat)) / 4)
    assert metrics.cider_d(["a cat"], [["a cat"]])[0] == 0, "of a single picture nothing is rare"
    assert metrics.cider_d(["", "a"], [["a cat"], ["a"]])[0] == 0
    with pytest.raises(ValueError, match="references"):
        metrics.cider_d(["a"], [[]])


def test_bleu_by_hand():
    one = metrics.bleu4(["a red apple on a tree"], [["A red apple on the tree"]])
    assert one == pytest.approx(100 * (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25)
    assert metrics.bleu4(["a red apple on a tree"], [["nothing", "a red apple on a tree"]]) == pytest.approx(100)
    many = metrics.bleu4(["a b c d", "a b c d"], [["a b c d", "x", "y"], ["a b c d"]])
    assert many == pytest.approx(100), "pictures have different numbers of references"


def test_names_said_exactly():
    names = ["red apple", "flag: Réunion", "eyes", "keycap: 1"]
    said = ["a red apple, noto style", "the flag of Reunion", "a pair of eyes", "keycap 1"]
    assert captioning.evaluation.exact_name_accuracy(said, [captions.plain(name) for name in names]) == 0.75


def test_layout_scores_by_hand():
    kinds = {"cat face": 3, "pizza": 5, "blue car": 6, "dog face": 3}
    scene = [dataclasses.replace(o, label=kinds[o.name]) for o in SCENE]
    true = scene_caption(scene)
    full = captioning.layouts.layout_scores([true], [scene], kinds)
    assert full == {
        "objects_right": 1,
        "relations_right": 1,
        "relations_judged": 2,
        "kinds_right": 1,
        "kind_relations_right": 1,
    }
    wrong = captioning.layouts.layout_scores(["a dog face to the right of a pizza, a blue car below"], [scene], kinds)
    assert wrong["objects_right"] == pytest.approx(2 / 3) and wrong["relations_judged"] == 1
    assert wrong["relations_right"] == 1 and wrong["kinds_right"] == 1 and wrong["kind_relations_right"] == 0.5
    assert captioning.layouts.layout_scores(["a pizza"], [scene], {})["objects_right"] == pytest.approx(1 / 3), (
        "too little"
    )
    many = "a pizza, a pizza above, a pizza above, a cat face above"
    assert captioning.layouts.layout_scores([many], [scene], {})["objects_right"] == pytest.approx(2 / 4), (
        "each object once"
    )
    none = captioning.layouts.layout_scores([""], [scene], {})
    assert none == {"objects_right": 0, "relations_right": 0, "relations_judged": 0}


# --- The loss and the frozen tower ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def eye(tmp_path_factory) -> clip.CLIP:
    return clip.load(str(tiny_models.dual_encoder(tmp_path_factory.mktemp("clip"))), device="cpu")


@pytest.fixture
def served(eye) -> contract.Captioner:
    torch.manual_seed(0)
    return captioning.model.create_captioner(dataclasses.replace(TINY, dropout=0.0), eye)


TEXTS = ["a cat", "a red apple face , a blue car"]
PLAIN = dataclasses.replace(TINY, label_smoothing=0.0, place_weight=0.0, pointing_weight=0.0, relation_weight=1.0)
SMOOTH = dataclasses.replace(PLAIN, label_smoothing=0.1)


def test_the_loss_by_hand_and_padding_counts_nothing(served):
    model = captioning.losses.Trainee(served.model, 0).eval()
    pixels = torch.randn(2, 3, 32, 32)
    loss, parts = captioning.losses.training_loss(model, {"pixels": pixels, "caption": TEXTS}, served, SMOOTH)
    ids, real = served.sequences(TEXTS)
    with torch.no_grad():
        log_probs = served.model(pixel_values=pixels, decoder_input_ids=ids[:, :-1]).logits.log_softmax(-1)  # (2, L, V)
    chosen = log_probs.gather(-1, ids[:, 1:, None])[..., 0][real[:, 1:]]
    even = log_probs.mean(-1)[real[:, 1:]]
    assert parts["cross_entropy"].item() == pytest.approx(-chosen.mean().item(), abs=1e-5)
    assert loss.item() == pytest.approx(-(0.9 * chosen + 0.1 * even).mean().item(), abs=1e-5)
    single = ({"pixels": pixels[n : n + 1], "caption": [TEXTS[n]]} for n in range(2))
    alone = [captioning.losses.training_loss(model, batch, served, PLAIN)[0].item() for batch in single]
    lengths = real.sum(1) - 1
    together = captioning.losses.training_loss(model, {"pixels": pixels, "caption": TEXTS}, served, PLAIN)[0].item()
    assert together == pytest.approx((np.array(alone) * lengths.numpy()).sum() / lengths.sum().item(), abs=1e-5)
    stock = served.model(pixel_values=pixels[:1], labels=ids[:1, 1:][real[:1, 1:]][None]).loss
    assert stock.item() == pytest.approx(alone[0], abs=1e-5)
    cut, _ = served.sequences(["cat " * 100])
    assert cut.shape == (1, served.max_length)


def test_the_loss_of_places_by_hand(served):
    true = torch.tensor([[-0.5, -0.5], [0.5, -0.5], [-0.5, 0.5], [0.5, 0.5]])  # of 2 × 2 patches: column, row
    told = torch.cat([torch.full((1, 2), 9.0), true])[None].repeat(3, 1, 1)  # a class token before them
    assert captioning.losses.place_loss(told).item() == 0
    told[:, 1:, 0] += 0.5
    assert captioning.losses.place_loss(told).item() == pytest.approx(0.25)
    assert captioning.losses.place_loss(torch.zeros(1, 64, 2)).item() == pytest.approx(2 / 3, abs=0.02)
    model, batch = captioning.losses.Trainee(served.model, 0, places=True).eval(), {"pixels": torch.randn(2, 3, 32, 32)}
    (words, _), (both, parts) = (
        captioning.losses.training_loss(model, batch | {"caption": TEXTS}, served, cfg)
        for cfg in (PLAIN, dataclasses.replace(PLAIN, place_weight=0.5))
    )
    assert both.item() == pytest.approx(words.item() + 0.5 * parts["places"].item(), abs=1e-5)


def test_losses_on_places_need_a_square_of_patches(served, monkeypatch):
    captioning.model.require_places(served)
    monkeypatch.setattr(captioning.model.contract, "encode", lambda model, pixels: torch.zeros(1, 43, 8))
    with pytest.raises(SystemExit, match="43 states.*--pointing_weight 0"):
        captioning.model.require_places(served)


@pytest.mark.parametrize("flag", ["relation_weight", "pointing_weight", "place_weight", "position_scale"])
def test_weights_below_zero_are_refused(flag):
    with pytest.raises(ValueError, match=flag):
        dataclasses.replace(TINY, **{flag: -1.0})


def test_the_loss_of_pointing_by_hand(served):
    attention = torch.full((2, 2, 4, 5), 0.1)  # 2 pictures, 2 heads, 4 tokens, a class token and 2 × 2 patches
    attention[0, 0, 1] = torch.tensor([0.2, 0.6, 0.1, 0.05, 0.05])
    attention[0, 0, 2] = torch.tensor([0.2, 0.1, 0.1, 0.3, 0.3])
    cells = torch.zeros(2, 3, 16, 16)
    cells[0, 1, :8] = 1  # the upper half
    cells[0, 1, 8:, 0] = 0.5  # a hair of the lower left
    loss = captioning.losses.pointing_loss([attention], [(0, 1, slice(1, 3))], cells)
    assert loss.item() == pytest.approx(-(math.log(0.7) + math.log(0.2)) / 2, abs=1e-6), "the second head is free"
    twice = captioning.losses.pointing_loss([attention, attention], [(0, 1, slice(1, 3))], cells)
    assert twice.item() == pytest.approx(loss.item())
    assert captioning.losses.pointing_loss([attention], [], cells).item() == 0
    ids, _ = served.sequences(["a red apple of a cat in blue", "a cat"])
    found = captioning.losses.named_at(served, ids, ["a cat\na red apple\na dog", "a cat"])
    assert [(picture, thing) for picture, thing, _ in found] == [(0, 1), (0, 0), (1, 0)]
    said = [served.tokenizer.decode(ids[picture, place].tolist()) for picture, _, place in found]
    assert said == ["a red apple of", "a cat in blue", "a cat"]


def test_words_that_say_where_count_more(served, monkeypatch):
    assert captioning.losses.where_ids(served.tokenizer) == []  # this vocabulary has none
    word = served.tokenizer.convert_tokens_to_ids("cat")
    monkeypatch.setattr(captioning.losses, "where_ids", lambda tokenizer: [word])
    model = captioning.losses.Trainee(served.model, 0).eval()
    batch = {"pixels": torch.randn(1, 3, 32, 32), "caption": ["a red cat"]}
    (once, parts), (thrice, _) = (
        captioning.losses.training_loss(model, batch, served, dataclasses.replace(PLAIN, relation_weight=weight))
        for weight in (1.0, 3.0)
    )
    assert parts["where"].item() > 0
    assert thrice.item() == pytest.approx(once.item() + 2 * parts["where"].item() / 4, abs=1e-5), "4 tokens"


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_the_tower_is_frozen_and_then_learns(served, optimizer):
    cfg = dataclasses.replace(TINY, optimizer=optimizer, unfreeze_step=2, adam_weight_decay=0.5, pointing_weight=0.0)
    model = captioning.losses.Trainee(served.model, cfg.unfreeze_step, places=True)
    groups = captioning.losses.tower_groups(model, cfg)
    ours = [id(p) for group in groups for p in group["params"]]
    assert sorted(ours) == sorted(id(p) for p in model.parameters())
    optimiser = (Muon if optimizer == "muon" else torch.optim.AdamW)(groups, lr=1e-2)
    tower = {name: p.clone() for name, p in served.model.encoder.named_parameters()}
    decoder = served.model.decoder.bert.encoder.layer[0].attention.self.query.weight
    batch = {"pixels": torch.randn(2, 3, 32, 32), "caption": TEXTS}
    for step in range(4):
        before = decoder.clone()
        captioning.losses.training_loss(model.train(), batch, served, cfg)[0].backward()
        assert all(p.grad is not None for p in model.parameters()), "other processes wait for it"
        optimiser.step()
        optimiser.zero_grad()
        same = [torch.equal(p, tower[name]) for name, p in served.model.encoder.named_parameters()]
        assert all(same) if step < 2 else not any(same)
        assert not torch.equal(decoder, before)
    assert int(model.passes) == 4
    model.eval()(batch["pixels"], served.sequences(TEXTS)[0])
    assert int(model.passes) == 4, "only training counts"


def test_a_checkpoint_holds_each_tensor_once_and_counts_go_on(served):
    model = captioning.losses.Trainee(served.model, 5)
    model.passes += 3
    state = {name: value.clone() for name, value in model.state_dict().items()}
    assert len({value.data_ptr() for value in model.state_dict().values()}) == len(state)
    other = captioning.losses.Trainee(served.model, 5)
    with torch.no_grad():
        for p in other.parameters():
            p.zero_()
        other.passes.zero_()
    other.load_state_dict(state)
    assert int(other.passes) == 3
    assert all(torch.equal(value, state[name]) for name, value in other.state_dict().items())
    head = other.captioner.decoder
    assert head.get_output_embeddings().weight is head.get_input_embeddings().weight
    with pytest.raises(RuntimeError, match="another model"):
        other.load_state_dict({name: value for name, value in state.items() if "crossattention" not in name})


# --- The tower --------------------------------------------------------------------------------------------------------


def test_a_swin_tower_takes_larger_pictures_and_gets_positions(eye):
    trained = eye.model.vision_model
    made = captioning.towers.tower(trained, 64).eval()
    pixels = torch.randn(1, 3, 64, 64)
    positions = made.embeddings.position_embeddings
    assert positions.shape == (1, 256, 16)
    assert positions.std().item() == pytest.approx(captioning.towers.POSITION_SCALE)
    assert len(torch.unique(positions[0].round(decimals=4), dim=0)) == 256, "no two places alike"
    with torch.no_grad():
        assert made(pixels).last_hidden_state.shape == (1, 64, 32)
        apart = made(pixels).last_hidden_state - trained(pixels).last_hidden_state
        size = apart.abs().mean()
        louder = (
            captioning.towers.tower(trained, 64, 0.6).eval()(pixels).last_hidden_state
            - trained(pixels).last_hidden_state
        )
        assert 0 < size < trained(pixels).last_hidden_state.abs().mean() and louder.abs().mean() > 1.3 * size
        positions.zero_()
        torch.testing.assert_close(made(pixels).last_hidden_state, trained(pixels).last_hidden_state)
    again = captioning.towers.tower(made, 32)
    assert again.embeddings.position_embeddings.shape == (1, 64, 16)


def test_a_swin_tower_gets_smaller_windows_where_its_last_stage_sees_less():
    """Two pictures' places as far apart as before are biased as before."""
    from transformers import SwinConfig, SwinModel

    torch.manual_seed(0)
    trained = SwinModel(
        SwinConfig(image_size=64, patch_size=4, embed_dim=16, depths=[1, 2, 1], num_heads=[1, 2, 4], window_size=4)
    )
    biases = {name: part for name, part in trained.named_modules() if name.endswith("relative_position_bias")}
    for part in biases.values():
        part.relative_position_bias_table.data.normal_()
    for side_px, window in ((64, 4), (48, 3), (40, 3), (32, 2), (16, 1)):
        made = captioning.towers.tower(trained, side_px).eval()
        assert made.config.window_size == window
        with torch.no_grad():
            assert made(torch.randn(1, 3, side_px, side_px)).last_hidden_state.shape[1] == (-(-side_px // 16)) ** 2
        corner = [4 * y + x for y in range(window) for x in range(window)]  # of the window as it was
        for name, part in biases.items():
            assert torch.equal(made.get_submodule(name)(), part()[:, :, corner][:, :, :, corner]), (side_px, name)


def test_a_vit_tower_is_resized():
    from transformers import ViTConfig, ViTModel

    trained = ViTModel(
        ViTConfig(
            image_size=32,
            patch_size=8,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=1,
            num_attention_heads=2,
        )
    ).eval()
    trained.embeddings.position_embeddings.data.normal_()
    same, larger = captioning.towers.tower(trained, 32).eval(), captioning.towers.tower(trained, 64).eval()
    pixels = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(same(pixels).last_hidden_state, trained(pixels).last_hidden_state)
        assert larger(torch.randn(1, 3, 64, 64)).last_hidden_state.shape == (1, 65, 32)
    old, new = trained.embeddings.position_embeddings, larger.embeddings.position_embeddings
    assert torch.equal(old[:, 0], new[:, 0])
    plane = new[:, 1:].reshape(1, 8, 8, 32).permute(0, 3, 1, 2)
    torch.testing.assert_close(F.avg_pool2d(plane, 8), old[:, 1:].mean(1)[..., None, None], atol=0.1, rtol=0)
    trained.config.model_type = "beit"
    with pytest.raises(SystemExit, match="Swin or a ViT"):
        captioning.towers.tower(trained, 32)


def test_the_shipped_size_fits_into_14_mib(tmp_path):
    from training import clip as dual_encoder

    cfg = dataclasses.replace(
        dual_encoder.config.EMOJI,
        text="scratch",
        text_args={"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64},
    )
    eye = dual_encoder.model.create_clip(cfg, [f"w{number}" for number in range(6000)])
    served = captioning.model.create_captioner(captioning.config.EMOJI, eye)
    assert served.kind == "swin-bert" and len(served.tokenizer) == 5000 and served.parameters <= 7.3e6
    assert (served.resolution_px, served.max_length, served.max_prefix_tokens) == (128, 64, 62)
    assert contract.attended(served.model, served.encode([Image.new("RGB", (9, 9))])).shape == (1, 64, 224)
    contract.save_folder(tmp_path, served)
    halves.to_half(tmp_path)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 13.7 * 2**20, "with the card 14 MiB"
    assert contract.load(str(tmp_path), device="cpu").parameters == served.parameters


# --- Samples, and a folder of somebody's own captions -----------------------------------------------------------------


def test_samples_follow_their_draw(served):
    source = open_source("emoji-sample", split="train", limit=10)
    scenes = Scenes("train", dataset_name="emoji-sample", resolution_px=32, length=20, max_objects=3)
    samples = captioning.samples.CaptionedPictures(source, scenes, TINY, served)
    one, same = (samples.sample(3, torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(one["pixels"], same["pixels"]) and one["caption"] == same["caption"]
    drawn = [samples.sample(3, torch.Generator().manual_seed(seed)) for seed in range(40)]
    assert {s["pixels"].shape for s in drawn} == {(3, 32, 32)}
    single = core(samples.captions.plain(3))
    about = [read_layout(s["caption"])[0][0] == single for s in drawn]
    assert 8 < sum(about) < 32, "half of them are scenes"
    assert len({s["caption"] for s in drawn}) > 15
    alone = captioning.samples.CaptionedPictures(source, None, TINY, served)
    assert all(single in core(alone.sample(3, torch.Generator().manual_seed(s))["caption"]) for s in range(10))


@pytest.fixture(scope="module")
def own_data(tmp_path_factory):
    """24 + 6 pictures of a red circle or a blue square on white, each with two captions."""
    root, rng = tmp_path_factory.mktemp("own"), random.Random(0)
    for split, count in (("train", 24), ("validation", 6)):
        (root / split).mkdir()
        rows = []
        for i in range(count):
            image = Image.new("RGB", (40, 40), "white")
            x, y = rng.randrange(4, 14), rng.randrange(4, 14)
            shape = (x, y, x + 20, y + 20)
            pen = ImageDraw.Draw(image)
            pen.ellipse(shape, fill=(220, 30, 30)) if i % 2 else pen.rectangle(shape, fill=(30, 30, 220))
            image.save(root / split / f"{i}.png")
            kind = "red apple" if i % 2 else "blue house"
            rows.append({"file_name": f"{i}.png", "text": [f"a {kind}", f"the {kind}"]})
        (root / split / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return root


@pytest.mark.parametrize("start", ["clip", "blip", "vit-gpt2"])
def test_it_learns_from_somebodys_folder(own_data, start, tmp_path):
    flags = ["--cpu", "--dataset_name", str(own_data), "--resolution", "32", "--output_dir", str(tmp_path / "run"),
             "--learning_rate", "5e-3", "--lr_warmup_steps", "5", "--ema_decay", "0.8", "--validation_steps", "1000",
             "--checkpointing_steps", "1000", "--train_batch_size", "8", "--label_smoothing", "0", "--max_train_steps",
             "100", "--unfreeze_step", "10", "--tower_lr_scale", "1"]  # fmt: skip
    if start == "clip":
        argv = ["--preset", "tiny", "--clip_name_or_path", str(tiny_models.dual_encoder(tmp_path / "clip")), *flags]
    else:
        base = tiny_models.captioner(tmp_path / "base", start)
        argv = ["--preset", "finetune", "--pretrained_model_name_or_path", str(base), *flags]
    captioning.main(argv)
    export = tmp_path / "run" / "export"
    store.verify(export, manifest_required=True)
    ours = contract.load(str(export), device="cpu")
    held_out = open_source(str(own_data), split="validation")
    said = [ours.caption(held_out.picture(i))[0] for i in range(6)]
    assert [c.text.split()[-1] for c in said] == [held_out.captions(i)[0].split()[-1] for i in range(6)]
    assert all(c.log_prob > -3 for c in said)
    results = captioning.evaluate_checkpoint(str(export), str(own_data))
    assert results.metrics["validation/cider_d"] > 1 and results.baseline["validation/cider_d"] > 1
    assert results.metrics["validation/pictures"] == 6 and results.figures["captions"].width == 1120
    card = (export / "README.md").read_text()
    assert "pipeline_tag: image-to-text" in card and ("Blip" in card) == (start == "blip")


def test_positions_of_a_checkpoint_can_be_made_louder(tmp_path):
    base = tiny_models.captioner(tmp_path / "base")
    cfg = dataclasses.replace(TINY, pretrained_model_name_or_path=str(base))
    kept, louder = (
        captioning.model.start_from(dataclasses.replace(cfg, position_scale=scale)) for scale in (None, 0.5)
    )
    before, after = (served.model.state_dict() for served in (kept, louder))
    (name,) = (name for name in before if not torch.equal(before[name], after[name]))
    assert name == "encoder.embeddings.position_embeddings" and after[name].std().item() == pytest.approx(0.5)
    torch.testing.assert_close(before[name] / before[name].std(), after[name] / after[name].std())


def test_another_resolution_is_refused(tmp_path):
    base = tiny_models.captioner(tmp_path / "base", "swin-bert")
    with pytest.raises(SystemExit, match="--resolution"):
        captioning.model.start_from(dataclasses.replace(TINY, pretrained_model_name_or_path=str(base), resolution=64))
    for wrong in ({"scenes": 1.5}, {"scene_objects": 4}, {"max_length": 2}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            dataclasses.replace(TINY, **wrong)
