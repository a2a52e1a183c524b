"""Films of drawings from prompts: cross-attention against a layer by hand, forks that change nothing, and the tab."""

import base64
import copy
import dataclasses
import io
import json
import threading

import numpy as np
import pytest
import tiny_models
import torch
from diffusers import UNet2DConditionModel
from gradio import processing_utils
from gradio_client import Client
from gradio_client.exceptions import AppError
from PIL import Image, ImageSequence

from apps import text_to_image as app
from apps.kit import films, pictures, values
from apps.text_to_image import desk, film, inside_words, words
from apps.text_to_image.desk import Desk
from hub_models import text_to_image
from hub_models.text_to_image import Fork, inside

PROMPT, STEPS = "a red apple, noto style", 8
SETTINGS = {"num_inference_steps": STEPS, "guidance_scale": 2.0}
GOOD = {"prompt": PROMPT, "negative": "", "count": 1, "seed": "3", "steps": STEPS, "guidance": 2.0}
GOOD |= {"sampler": "DDIM", "picture": None, "strength": 0.6}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    extra = {"latent_to_rgb": np.random.default_rng(0).normal(0, 0.4, (4, 3)).tolist(), "styles": ["noto"]}
    folder = tmp_path_factory.mktemp("tiny")
    tiny_models.stable_diffusion(folder, text="bert", extra=extra | {"default_steps": STEPS, "guidance_scale": 2.0})
    return text_to_image.load(str(folder), device="cpu")


@pytest.fixture
def attentive(model):
    """The model, with what it hears of its text so loud that, from any seed, 8 bits show what another prompt does."""
    weights = [layer.to_out[0].weight.data for layer in inside.cross_attention(model.pipe.unet)]
    for weight in weights:
        weight *= 64
    yield model
    for weight in weights:
        weight /= 64  # to the bit


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """A Stable-Diffusion folder with a CLIPTextModel and none of our own files."""
    return text_to_image.load(str(tiny_models.stable_diffusion(tmp_path_factory.mktemp("foreign"))), device="cpu")


def latents(model, prompt=PROMPT, seeds=(3,), **how) -> list[torch.Tensor]:
    """x_t after each step, (B, C, h, w)."""
    return [step.x_t for step in model.generate(prompt, list(seeds), **SETTINGS | how)]


def recorded(model, **change) -> film.Film:
    return Desk({"tiny": model}).film(desk.check_order(model, **GOOD | change), None)


# ---- cross-attention -------------------------------------------------------------------------------------------------


def test_the_map_of_a_layer_is_the_one_by_hand(model):
    layer = inside.cross_attention(model.pipe.unet)[0]
    hidden, states = torch.randn(2, 9, layer.to_q.in_features), torch.randn(2, 5, layer.to_k.in_features)
    query, key = hidden @ layer.to_q.weight.T, states @ layer.to_k.weight.T
    size, by_hand = query.shape[-1] // layer.heads, torch.zeros(2, 9, 5)
    for head in range(layer.heads):
        part = slice(head * size, (head + 1) * size)
        by_hand += (query[..., part] @ key[..., part].mT / size**0.5).softmax(-1) / layer.heads
    torch.testing.assert_close(inside.probabilities(layer, hidden, states), by_hand)
    assert layer.heads > 1 and by_hand.std() > 0.01, "else it would not matter"


def test_what_is_heard_explains_what_the_layer_answers(model):
    """With one head, probabilities times values, projected, are the layer's output."""
    layer = inside.cross_attention(model.pipe.unet)[0]
    hidden, states = torch.randn(1, 16, layer.to_q.in_features), torch.randn(1, 7, layer.to_k.in_features)
    heads, layer.heads, scale = layer.heads, 1, layer.scale
    layer.scale = layer.to_q.out_features**-0.5
    try:
        with inside.listening([layer], 1) as heard:
            answer = layer(hidden, encoder_hidden_states=states)
    finally:
        layer.heads, layer.scale = heads, scale
    expected = layer.to_out[0](heard[0] @ layer.to_v(states))
    torch.testing.assert_close(answer, expected, atol=1e-5, rtol=1e-4)


def test_maps_of_all_sizes_are_joined_on_one_grid_and_stay_probabilities():
    layers = [torch.rand(2, side * side, 7).softmax(-1) for side in (2, 4, 32)]
    grid = inside.joined(layers)
    assert grid.shape == (2, 7, 16, 16)
    torch.testing.assert_close(grid.sum(1), torch.ones(2, 16, 16))
    flat = layers[2].mT.reshape(2, 7, 16, 2, 16, 2).mean((3, 5))
    torch.testing.assert_close(inside.joined(layers[2:]), flat)
    assert inside.joined(layers[:2]).shape == (2, 7, 4, 4) and inside.joined([]) is None


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_a_recorded_drawing_is_the_unrecorded_one_to_the_bit(model, guidance):
    plain = latents(model, guidance_scale=guidance)
    steps = list(model.generate(PROMPT, [3], look_inside=True, **SETTINGS | {"guidance_scale": guidance}))
    assert all(torch.equal(step.x_t, x) for step, x in zip(steps, plain, strict=True))
    assert all((step.inside.guesses is None) == (guidance == 1) for step in steps)
    attention = torch.cat([step.inside.attention for step in steps])  # (S, L, g, g)
    assert attention.shape == (STEPS, model.max_length, 4, 4)
    torch.testing.assert_close(attention.sum(1), torch.ones(STEPS, 4, 4))
    assert attention.std(0).max() > 1e-6, "steps differ"
    assert not any(layer._forward_pre_hooks for layer in inside.cross_attention(model.pipe.unet)), "taken off"
    assert torch.equal(latents(model, guidance_scale=guidance)[-1], plain[-1])


def test_the_two_guesses_are_those_of_the_two_prompts(model):
    *_, step = model.generate(PROMPT, [3], look_inside=True, sampler="ddim", **SETTINGS)
    null, towards = step.inside.guesses
    torch.testing.assert_close(null + 2 * (towards - null), step.x0, atol=1e-4, rtol=1e-4)
    first, other = (next(model.generate(text, [3], look_inside=True, **SETTINGS)) for text in (PROMPT, "a blue cat"))
    asked_once = next(model.generate("", [3], guidance_scale=1.0, num_inference_steps=STEPS))
    for one in (first, other):  # what the model guesses without a prompt does not depend on the prompt
        torch.testing.assert_close(one.inside.guesses[0], asked_once.x0, atol=1e-4, rtol=1e-4)
    assert (first.inside.guesses[1] - other.inside.guesses[1]).abs().max() > 1e-3


def test_only_the_half_with_the_prompt_is_heard(model):
    guided = next(model.generate(PROMPT, [3], look_inside=True, **SETTINGS)).inside.attention
    alone = next(model.generate(PROMPT, [3], look_inside=True, **SETTINGS | {"guidance_scale": 1.0})).inside.attention
    without = next(model.generate("", [3], look_inside=True, num_inference_steps=STEPS)).inside.attention
    torch.testing.assert_close(guided, alone, atol=1e-5, rtol=1e-4)
    assert (guided - without).abs().max() > 1e-4


def test_who_draws_beside_a_recorded_drawing_is_not_heard_and_draws_the_same(model):
    plain, start = {seed: latents(model, seeds=[seed])[-1] for seed in range(4)}, threading.Barrier(4)
    found = {}

    def draw(seed):
        start.wait()
        steps = [list(model.generate(PROMPT, [seed], look_inside=seed % 2 == 0, **SETTINGS)) for _ in range(6)]
        found[seed] = steps[-1]

    threads = [threading.Thread(target=draw, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed, steps in found.items():
        torch.testing.assert_close(steps[-1].x_t, plain[seed], atol=1e-5, rtol=1e-4)
        assert (steps[0].inside is None) == (seed % 2 == 1)
    own = next(model.generate(PROMPT, [2], look_inside=True, **SETTINGS)).inside.attention
    torch.testing.assert_close(found[2][0].inside.attention, own, atol=1e-5, rtol=1e-4)


def test_tokens_are_joined_to_words(model, foreign):
    for each in (model, foreign):
        found = each.words("a red apple, xyz")
        assert [word.text for word in found] == ["start", "a", "red", "apple", ",", "xyz", "end and padding"]
        tokens = [token for word in found for token in word.tokens]
        assert sorted(tokens) == list(range(each.max_length)), "each token is in one word"
        assert len(found[-2].tokens) > 1, "a word that the tokenizer has to spell"
        assert found[0].tokens == [0] and each.max_length - 1 in found[-1].tokens
        assert each.words("") == [] and each.words(" \u200b") == []
        spelled = each.words("a red apple in the house of the cat of the dog of the car")
        assert "car" not in [word.text for word in spelled], "what is cut is not looked for"
        assert [word.text for word in each.words("red red")][1:3] == ["red", "red"]


# ---- forks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", text_to_image.SAMPLERS)
def test_a_fork_that_changes_nothing_is_the_drawing(model, sampler):
    plain = latents(model, sampler=sampler)
    for at in (0, 3, STEPS - 1):
        for fork in (Fork(at), Fork(at, PROMPT, 2.0, sampler)):
            assert all(map(torch.equal, plain, latents(model, sampler=sampler, fork=fork))), (at, fork)


@pytest.mark.parametrize("sampler", text_to_image.SAMPLERS)
@pytest.mark.parametrize("change", [{"prompt": "a blue cat"}, {"guidance_scale": 9.0}, {"guidance_scale": 1.0}])
def test_a_fork_is_the_same_up_to_its_step_and_another_one_after(model, sampler, change):
    plain, forked = latents(model, sampler=sampler), latents(model, sampler=sampler, fork=Fork(5, **change))
    same = [torch.equal(*pair) for pair in zip(plain, forked, strict=True)]
    assert same == [True] * 5 + [False] * 3
    whole = latents(model, sampler=sampler, **change)
    assert all(map(torch.equal, whole, latents(model, sampler=sampler, fork=Fork(0, **change))))


@pytest.mark.parametrize("before", text_to_image.SAMPLERS)
@pytest.mark.parametrize("after", text_to_image.SAMPLERS)
def test_a_fork_to_another_sampler_goes_on_from_the_same_noise(model, before, after):
    """A step of a first order takes the same x_t and x0 to the same place, whatever scale the scheduler keeps it in."""
    steps = list(model.generate(PROMPT, [3], sampler=before, look_inside=True, **SETTINGS))
    how = SETTINGS | {"sampler": before, "fork": Fork(4, sampler=after)}
    forked = list(model.generate(PROMPT, [3], look_inside=True, **how))
    for k in range(5):
        torch.testing.assert_close(forked[k].inside.x_t, steps[k].inside.x_t, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(forked[k].x0, steps[k].x0, atol=1e-3, rtol=1e-3)
    if before != after and after != "ddpm":  # the others' first step is DDIM's
        ddim = list(model.generate(PROMPT, [3], look_inside=True, **how | {"fork": Fork(4, sampler="ddim")}))
        if before != "ddim":
            torch.testing.assert_close(forked[5].inside.x_t, ddim[5].inside.x_t, atol=1e-3, rtol=1e-3)
    assert torch.isfinite(forked[-1].x_t).all() and forked[-1].x_t.abs().max() < 100


def test_image_to_image_forks_within_the_steps_that_it_has(model):
    ramp = Image.linear_gradient("L").resize((32, 32)).convert("RGB")
    plain = latents(model, image=ramp, strength=0.5)
    assert all(map(torch.equal, plain, latents(model, image=ramp, strength=0.5, fork=Fork(2))))
    for sampler in text_to_image.SAMPLERS:
        forked = latents(model, image=ramp, strength=0.5, fork=Fork(2, sampler=sampler))
        assert len(forked) == 4 and all(map(torch.equal, plain[:2], forked[:2]))
    with pytest.raises(ValueError, match=r"fork\.at 4 is not an integer from 0 to 3"):
        model.generate(PROMPT, [1], image=ramp, strength=0.5, fork=Fork(4), **SETTINGS)


@pytest.mark.parametrize(
    ("fork", "words"),
    [
        (Fork(8), "0 to 7"),
        (Fork(-1), "0 to 7"),
        (Fork(2.5), "0 to 7"),
        (Fork(1, prompt=7), "text, not int"),
        (Fork(1, prompt="x" * 2001), "2000"),
        (Fork(1, guidance_scale=99), "1 to 30"),
        (Fork(1, sampler="heun"), "dpm\\+\\+, ddim"),
    ],
)
def test_a_fork_out_of_its_range_is_refused_before_the_first_step(model, fork, words):
    with pytest.raises(ValueError, match=words):
        model.generate(PROMPT, [1], fork=fork, **SETTINGS)


def test_samplers_with_other_timesteps_are_no_fork(tmp_path_factory):
    folder = tiny_models.stable_diffusion(tmp_path_factory.mktemp("karras"))
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"use_karras_sigmas": True}))
    odd = text_to_image.load(str(folder), device="cpu")
    assert len(latents(odd, sampler="dpm++")) == STEPS
    with pytest.raises(ValueError, match="other timesteps"):
        odd.generate(PROMPT, [1], sampler="ddim", fork=Fork(2, sampler="dpm++"), **SETTINGS)
    with pytest.raises(values.InputError, match="Not forked: .*other timesteps"):
        desk.check_fork(desk.check_order(odd, **GOOD), 2, PROMPT, 2.0, "DPM-Solver++")


def test_a_forked_picture_is_verified_and_its_fork_can_not_be_altered(model):
    fork = Fork(5, "a blue  cat", 4.0, "unipc")
    *_, last = model.generate(PROMPT, [3], sampler="ddim", fork=fork, **SETTINGS)
    picture = model.decode(last.latents)[0]
    settings = SETTINGS | {"sampler": "ddim", "fork": fork}
    receipt = json.loads(json.dumps(model.receipt(PROMPT, 3, picture=picture, **settings)))
    assert receipt["fork"] == {"at": 5, "prompt": "a blue cat", "guidance_scale": 4.0, "sampler": "unipc"}
    assert model.verify(receipt, picture) == text_to_image.Verdict("identical", ())
    line = text_to_image.parameters_text(receipt).split("\n")[-1]
    assert 'Fork: "after 5 steps prompt a blue cat, guidance_scale 4.0, sampler unipc"' in line
    verdict = model.verify(receipt | {"fork": receipt["fork"] | {"at": 0}}, picture)
    assert (verdict.state, verdict.fields) == ("different", ("fork",))
    for broken in ({"at": 99}, {"at": "x"}, {}, 7, {"at": 1, "way": 2}, {"at": 1, "prompt": "x" * 3000}, [1]):
        with pytest.raises(text_to_image.ReceiptError, match="cannot be drawn again"):
            model.verify(receipt | {"fork": broken}, picture)


def test_the_longest_receipt_of_a_fork_can_be_read(model):
    long = "😀" * 2000
    settings = SETTINGS | {"negative_prompt": long, "fork": Fork(1, long)}
    text = json.dumps(model.receipt(long, 3, **settings))
    assert text_to_image.read_receipt({text_to_image.RECEIPT_KEY: text})["fork"]["prompt"] == long


# ---- films -----------------------------------------------------------------------------------------------------------


def test_the_film_pairs_what_the_model_saw_with_what_it_guessed(model):
    made = recorded(model)
    steps = list(model.generate(PROMPT, [3], sampler="ddim", look_inside=True, **SETTINGS))
    assert made.steps == list(range(STEPS + 1)) and made.timesteps == [*(step.timestep for step in steps), -1]
    assert made.latents.shape == (STEPS + 1, 4, 4, 8, 8) and made.rough.shape == (STEPS + 1, 4, 8, 8, 3)
    for k, step in enumerate(steps):
        seen = step.inside.x_t, step.x0, step.inside.guesses[1], step.inside.guesses[0]
        assert np.array_equal(made.latents[k], torch.cat(seen).numpy())
        if k:
            assert np.array_equal(made.latents[k, 0], steps[k - 1].x_t[0].numpy())
        assert np.array_equal(made.rough[k, 1], step.preview[0])
        for view, tensor in enumerate(seen):
            decoded = np.asarray(model.decode(tensor)[0]).astype(int)
            assert np.abs(made.views(k)[view] - decoded).max() <= 1
    plain = desk.check_order(model, **GOOD)
    *_, last = plain.steps()
    assert np.abs(np.asarray(made.picture).astype(int) - np.asarray(plain.pngs(last)[0])).max() <= 1
    assert np.abs(made.views(made.last)[0].astype(int) - np.asarray(made.picture)).max() <= 1
    assert made.maps.shape == (STEPS, len(made.words), 4, 4)
    np.testing.assert_allclose(made.maps.sum(1), 1, atol=1e-5)  # all tokens are in some word
    np.testing.assert_allclose(made.mean, made.maps.mean(0), atol=1e-6)


def test_a_long_film_keeps_some_frames_and_the_mean_of_all_steps(model, monkeypatch):
    monkeypatch.setattr(film, "SHARP_PX", 0)
    made = recorded(model, steps=100)
    assert len(made.steps) == films.FRAMES and made.steps[-1] == 100 and not made.sharp
    every = [
        step.inside.attention[0] for step in desk.check_order(model, **GOOD | {"steps": 100}).steps(look_inside=True)
    ]
    tokens = model.words(PROMPT)[2].tokens
    np.testing.assert_allclose(made.mean[2], torch.stack(every).mean(0)[tokens].sum(0), atol=1e-5)
    assert made.views(5).shape == (4, 8, 8, 3) and 'class="rough"' in inside_words.film_html(made, 5, 0)
    made.develop(model, [5])
    assert made.views(5).shape == (4, 32, 32, 3) and 'class="rough"' not in inside_words.film_html(made, 5, 0)


def test_of_a_film_with_much_to_decode_some_frames_are_decoded(model, monkeypatch):
    monkeypatch.setattr(film, "SHARP_PX", 10 * 4 * 32 * 32)
    made = recorded(model, steps=20)
    assert sorted(made.sharp) == made.shown and len(made.shown) == 10 and made.shown[::9] == [0, 20]
    with Image.open(io.BytesIO(made.gif())) as gif:
        assert gif.n_frames == 10
    monkeypatch.setattr(film, "SHARP_PX", 7 * 4 * 32 * 32)
    assert not recorded(model, steps=20).sharp, "so few would be no film"


def test_a_model_of_somebody_else_has_films_too(foreign):
    made = recorded(foreign)
    assert made.maps is not None and made.words[:2] == ["start", "a"]
    assert made.rough.std() > 1, "by a map fitted to the picture"
    page = inside_words.film_html(made, 2, 1)
    assert page.count("<figure>") == 7 and 'aria-pressed="true">a <' in page


def test_a_fitted_map_is_the_linear_one_where_there_is_one():
    rng = np.random.default_rng(0)
    latents, weight = rng.normal(size=(5, 4, 8, 8)).astype(np.float32), rng.normal(0, 20, (4, 3))
    colours = np.moveaxis(latents, 1, -1) @ weight + 128
    inner = colours.clip(0, 255).round().astype(np.uint8)
    picture = Image.fromarray(np.kron(inner[0], np.ones((4, 4, 1), np.uint8)))
    assert np.abs(film.fitted(latents, latents[0], picture).astype(int) - inner).max() <= 2


def test_without_words_it_is_said(model):
    page = inside_words.film_html(recorded(model, prompt=""), 2, 0)
    assert "no words to look for" in page and "no two guesses" in page and page.count("<figure>") == 2


@pytest.mark.parametrize("kind", ["", "SimpleCrossAttn"])
def test_a_unet_without_layers_that_can_be_listened_to_has_a_film_that_says_so(foreign, monkeypatch, kind):
    """One that knows no text, and one that adds the image's own keys to those of the text, as DeepFloyd's does."""
    odd = UNet2DConditionModel(
        sample_size=8, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8, cross_attention_dim=32,
        attention_head_dim=8, down_block_types=("DownBlock2D", f"{kind}DownBlock2D"),
        mid_block_type=f"UNetMidBlock2D{kind}", up_block_types=(f"{kind}UpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    monkeypatch.setattr(foreign.pipe, "unet", odd.eval())
    made = recorded(foreign)
    assert made.maps is None and made.mean is None and made.attention() == [] and made.first_word == 0
    page = inside_words.film_html(made, 2, 0)
    assert "no cross-attention that can be listened to" in page and page.count("<figure>") == 5


def test_the_png_of_a_fork_is_restored_with_a_word_on_it_and_verified(model, tmp_path):
    mine = Desk({"tiny": model})
    other = mine.film(mine.branch(recorded(model), 3, "a blue cat", 5.0, "UniPC"), None)
    (tmp_path / "fork.png").write_bytes(processing_utils.encode_pil_to_bytes(other.picture))
    found, verdict = mine.verified(str(tmp_path / "fork.png"), None, "tiny", None)
    assert (verdict.state, verdict.fields) == ("identical", ())
    assert found.settings["prompt"] == PROMPT and "went another way" in found.problems[0]
    page = words.restored_html(found)
    assert "after 3 steps: “a blue cat”, guidance 5, UniPC" in page
    gone = Desk({"other": foreign_named(model)})
    with pytest.raises(text_to_image.ReceiptError, match="not loaded here"):
        gone.verified(str(tmp_path / "fork.png"), None, "other", None)
    for fork in ({}, 7, {"at": "<b>", "prompt": 3, "guidance_scale": "<i>", "sampler": []}):
        page = words.receipt_html(dataclasses.replace(found, receipt=found.receipt | {"fork": fork}))
        assert "<b>" not in page and "<i>" not in page


def foreign_named(model):
    """The same model by another hash."""
    other = copy.copy(model)
    other.weights_sha256 = "0" * 64
    return other


def test_the_gain_of_a_difference_is_the_largest_that_cuts_next_to_nothing_off():
    one, other = np.full((20, 20, 3), 100, np.uint8), np.full((20, 20, 3), 100, np.uint8)
    one[:5], other[5:10] = 105, 107
    one[19, 19] = 255  # fewer than a hundredth
    shown, gain = film.difference(one, other)
    assert gain == 16 and shown[0, 0, 0] == 128 + 80 and shown[9, 9, 0] == 128 - 112 and shown[12, 2, 0] == 128
    assert shown[19, 19, 0] == 255
    assert film.difference(one, one)[1] == film.MAX_GAIN and film.difference(one * 0, one * 0 + 255)[1] == 1


def test_words_of_others_are_text_in_a_film_and_never_markup(model):
    made = recorded(model, prompt="<img src=x> & <b>")
    page = inside_words.film_html(made, 1, 1) + inside_words.picks_html([b"x"], [made.receipt])
    assert "<img src=x" not in page and "<b> &" not in page


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"after": 8}, "Steps before the fork must be a whole number from 0 to 7"),
        ({"after": "2"}, "0 to 7"),
        ({"prompt": "x" * 2001}, "2,001 characters"),
        ({"guidance": 50}, "1 to 20"),
        ({"sampler": "heun"}, "DPM-Solver"),
    ],
)
def test_a_fork_that_cannot_be_is_an_error_that_says_so(model, change, words):
    order = desk.check_order(model, **GOOD)
    good = {"after": 2, "prompt": "", "guidance": 2.0, "sampler": "DDIM"}
    assert desk.check_fork(order, **good).settings["fork"] == Fork(2, "", 2.0, "ddim")
    with pytest.raises(values.InputError, match=words):
        desk.check_fork(order, **good | change)


def test_a_fork_needs_a_frame_before_the_end_and_the_model_that_drew(model):
    made, mine = recorded(model), Desk({"tiny": model})
    with pytest.raises(values.InputError, match="the end of the film"):
        mine.branch(made, made.last, PROMPT, 2.0, "DDIM")
    gone = dataclasses.replace(made, receipt=made.receipt | {"weights_sha256": "0" * 64})
    with pytest.raises(values.InputError, match="not here any more"):
        mine.branch(gone, 2, PROMPT, 2.0, "DDIM")


def test_a_film_from_a_picture_is_of_the_steps_that_are_taken(model, tmp_path):
    Image.linear_gradient("L").convert("RGB").save(tmp_path / "start.png")
    made = recorded(model, picture=str(tmp_path / "start.png"), strength=0.5)
    assert made.total == 4 and made.start is not None
    other = Desk({"tiny": model}).film(Desk({"tiny": model}).branch(made, 2, "a blue cat", 2.0, "DDIM"), None)
    same = [np.array_equal(*pair) for pair in zip(made.latents[:, 0], other.latents[:, 0], strict=True)]
    assert same == [True, True, True, False, False]


# ---- in a browser ----------------------------------------------------------------------------------------------------

FILM, FORK = "#text-to-image-film", "#text-to-image-fork"


def sources(page, where):
    return page.eval_on_selector_all(f"{where} img", "all => all.map(image => image.src)")


def pixels_of(urls):
    """The pictures of data URLs, int (N, H, W, 3)."""
    opened = [io.BytesIO(base64.b64decode(url.partition(",")[2])) for url in urls]
    return np.stack([np.asarray(Image.open(file).convert("RGB")).astype(int) for file in opened])


def wait_until(page, where, said):
    page.wait_for_function(
        "([where, said]) => (document.querySelector(where)?.innerText ?? '').includes(said)", arg=[where, said]
    )


def wait_for_another(page, where, old):
    page.wait_for_function(
        "([where, old]) => { const all = [...document.querySelectorAll(`${where} img`)].map(i => i.src);"
        " return all.length && all.join() !== old.join(); }",
        arg=[where, old],
    )
    return sources(page, where)


def to_frame(page, number, *where, total=STEPS):
    page.locator("#text-to-image-frame input[type=range]").fill(str(number))
    for part in where:
        wait_until(page, part, f"after {number} of {total} steps")


def test_a_picture_is_filmed_scrubbed_its_words_found_and_forked(serve, page, attentive, tmp_path):
    model = attentive
    page.goto(serve(app.build({"tiny": model})))
    wait_until(page, "#text-to-image-status", "An example")
    page.locator("#text-to-image-prompt textarea, #text-to-image-prompt input").fill("a red apple")
    page.get_by_label("number input for Pictures").fill("2")
    page.get_by_role("button", name="Draw", exact=True).click()
    wait_until(page, "#text-to-image-status", f"Done: {STEPS} steps")
    assert not page.locator("#text-to-image-picks").count(), "the tab is made when it is opened"
    page.get_by_role("tab", name="Look inside").click()
    page.locator("#text-to-image-picks button").nth(1).click()
    wait_until(page, "#text-to-image-film-line", "drag the frame")
    wait_until(page, FILM, f"after {STEPS // 2} of {STEPS} steps")
    assert page.locator(f"{FILM} figure").count() == 7 and "their difference × " in page.inner_text(FILM)

    seen = [sources(page, FILM)]
    for number in (2, 6):  # the film scrubs
        to_frame(page, number, FILM)
        seen.append(sources(page, FILM))
    assert all(len({frame[view] for frame in seen}) == 3 for view in range(6)), "all but the mean differ"
    assert len({frame[6] for frame in seen}) == 1

    words = page.locator(f"{FILM} .words button")
    assert [text.split(" ")[0] for text in words.all_inner_texts()] == ["start", "a", "red", "apple", "end"]
    chosen = page.locator(f"{FILM} .words button[aria-pressed=true]")
    other = 2 if chosen.inner_text().startswith("apple") else 3
    name = ("red", "apple")[other - 2]
    before = sources(page, FILM)
    words.nth(other).press("Enter")  # the keyboard chooses another word
    after = wait_for_another(page, FILM, before)
    assert after[:5] == before[:5] and after[5] != before[5] and after[6] != before[6]
    assert f"“{name}” at this step" in page.inner_text(FILM) and chosen.inner_text().startswith(name)

    to_frame(page, STEPS)
    wait_until(page, FILM, "the picture")
    page.get_by_role("button", name="Fork at this frame").click()
    page.get_by_text("That is the end of the film").wait_for()
    to_frame(page, 5, FILM)
    page.get_by_label("Prompt from here").fill("a blue cat")
    page.get_by_role("button", name="Fork at this frame").click()
    wait_until(page, "#text-to-image-fork-line", "Another way after 5 steps: “a blue cat”")
    wait_until(page, FORK, f"after {STEPS} of {STEPS} steps")
    for number in (0, 3, 5, 6, 7):
        to_frame(page, number, FILM, FORK)
        film_pixels, fork_pixels = (pixels_of(sources(page, where)[:2]) for where in (FILM, FORK))
        apart = np.abs(film_pixels - fork_pixels).max((1, 2, 3))  # (2,): of x_t and of the guess
        assert (apart[0] == 0) == (number <= 5) and (apart[1] == 0) == (number < 5), (number, apart)
    assert page.locator(f"{FORK} .words button").all_inner_texts()[3].startswith("cat")
    with page.expect_download() as download:
        page.get_by_text("Download PNG of the fork").click()
    assert download.value.suggested_filename.startswith("a-blue-cat-")
    download.value.save_as(tmp_path / "fork.png")
    receipt = json.loads(pictures.read_png_text(tmp_path / "fork.png")["vitrail"])
    assert receipt["prompt"] == "a red apple" and receipt["fork"]["at"] == 5
    with Image.open(tmp_path / "fork.png") as png:
        assert model.verify(receipt, png.convert("RGB")).state == "identical"
    with page.expect_download() as download:
        page.get_by_text("Download GIF of both").click()
    download.value.save_as(tmp_path / "both.gif")
    with Image.open(tmp_path / "both.gif") as gif:
        assert gif.n_frames == STEPS + 1 and gif.size == (328, 328)
        assert json.loads(gif.info["comment"])["vitrail"][1]["fork"] == receipt["fork"]

    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.locator("#text-to-image-picks button").nth(0).click()  # another picture has no fork yet
    page.wait_for_function("() => !document.querySelector('#text-to-image-fork img')")


def test_a_film_too_large_to_be_decoded_whole_is_decoded_frame_by_frame(serve, page, model, monkeypatch):
    monkeypatch.setattr(film, "SHARP_PX", 0)
    page.goto(serve(app.build({"tiny": model})))
    wait_until(page, "#text-to-image-status", "An example")
    page.get_by_role("tab", name="Look inside").click()
    page.locator("#text-to-image-picks button").first.click()
    wait_until(page, "#text-to-image-film-line", "drag the frame")
    for number in (2, 6):
        to_frame(page, number, FILM)
        page.wait_for_function("where => !document.querySelector(`${where} img.rough`)", arg=FILM)
        assert f"after {number} of" in page.inner_text(FILM)


def test_what_is_forgotten_or_never_drawn_is_said(serve, page, model, monkeypatch):
    """An hour is over in a moment here: a film, and a drawing, that the server has let go of."""
    import gradio as gr

    state = gr.State.__init__
    short = lambda self, value=None, *args, time_to_live=None, **more: state(  # noqa: E731
        self, value, *args, time_to_live=time_to_live and 5, **more
    )
    monkeypatch.setattr(gr.State, "__init__", short)
    page.goto(serve(app.build({"tiny": model})))
    wait_until(page, "#text-to-image-status", "An example")
    page.get_by_role("tab", name="Look inside").click()
    page.locator("#text-to-image-picks button").first.click()
    wait_until(page, FILM, "mean over steps")
    page.wait_for_timeout(12_000)
    page.locator("#text-to-image-frame input[type=range]").fill("1")
    wait_until(page, FILM, "forgotten")
    page.get_by_role("button", name="Fork at this frame").click()
    page.get_by_text("This film is forgotten, as all are after an hour").first.wait_for()
    page.locator("#text-to-image-picks button").first.click()
    page.get_by_text("Draw something first").first.wait_for()


# ---- through the API -------------------------------------------------------------------------------------------------


def test_the_api_films_and_forks(serve, model, tmp_path):
    client = Client(serve(app.build({"tiny": model})), verbose=False, download_files=str(tmp_path))
    asked = {"prompt": "a red apple", "negative_prompt": "", "seed": "7", "steps": 6, "guidance": 2, "sampler": "DDIM"}
    gif, receipt, looked = client.predict(**asked, api_name="/text_to_image_film")
    with Image.open(gif) as opened:
        assert opened.n_frames == 7 and opened.size == (328, 160)
        assert json.loads(opened.info["comment"])["vitrail"] == [receipt]
    assert receipt["seed"] == "7" and receipt["prompt"] == "a red apple" and "fork" not in receipt
    assert [each["word"] for each in looked] == ["start", "a", "red", "apple", "end and padding"]
    shares = np.array([each["share"] for each in looked])
    assert shares.shape == (5, 6) and np.abs(shares.sum(0) - 1).max() < 1e-3
    assert np.array(looked[0]["mean"]).shape == (4, 4)

    changed = {"after": 2, "new_prompt": "a blue cat", "new_guidance": 3, "new_sampler": "DDPM"}
    gif, png, receipt = client.predict(**asked, **changed, api_name="/text_to_image_fork")
    assert receipt["fork"] == {"at": 2, "prompt": "a blue cat", "guidance_scale": 3, "sampler": "ddpm"}
    assert json.loads(pictures.read_png_text(png)["vitrail"]) == receipt
    frames = [np.asarray(frame.convert("RGB")).astype(int) for frame in ImageSequence.Iterator(Image.open(gif))]
    same = [np.abs(frame[:160, :160] - frame[168:, :160]).mean() < 0.5 for frame in frames]  # of x_t
    assert len(frames) == 7 and same == [True] * 3 + [False] * 4
    with pytest.raises(AppError, match="Steps before the fork must be a whole number from 0 to 5"):
        client.predict(**asked, **changed | {"after": 6}, api_name="/text_to_image_fork")
    _, receipt, looked = client.predict(**asked | {"prompt": ""}, api_name="/text_to_image_film")
    assert looked == [] and receipt["prompt"] == ""
