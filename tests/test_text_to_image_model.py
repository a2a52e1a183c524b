"""hub_models/text_to_image against the stock pipelines, itself drawn alone, and its own receipts."""

import json
import shutil
import threading

import numpy as np
import pytest
import tiny_models
import torch
from diffusers import DiffusionPipeline, StableDiffusionImg2ImgPipeline
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
from PIL import Image, PngImagePlugin
from transformers import CLIPConfig, CLIPImageProcessor

from hub_models import store
from hub_models import text_to_image as contract
from hub_models.publish import halves

PROMPT, STEPS, SCALE = "a red apple in the house", 6, 3.0
V = {"prediction_type": "v_prediction", "beta_schedule": "squaredcos_cap_v2"}
EXTRA = {
    "guidance_scale": 2.5,
    "default_steps": 4,
    "default_sampler": "unipc",
    "styles": ["noto"],
    "latent_to_rgb": [[0.1, 0.2, 0.3], [0.0, 0.1, 0.0], [0.3, 0.0, 0.1], [0.0, 0.0, 0.2]],
    "latent_to_rgb_bias": [0.1, 0.0, -0.1],
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two stock folders: as Stable Diffusion 1 has it (ε, CLIP, nothing of ours), and as ours is (v, BERT)."""
    home = tmp_path_factory.mktemp("models")
    return {
        "foreign": tiny_models.stable_diffusion(home / "foreign", text="clip"),
        "ours": tiny_models.stable_diffusion(home / "ours", text="bert", extra=EXTRA, **V),
    }


@pytest.fixture(scope="module")
def models(folders):
    return {name: contract.load(str(folder), device="cpu") for name, folder in folders.items()}


@pytest.fixture
def model(models):
    return models["ours"]


def drawn(model, prompt=PROMPT, seeds=(3,), **settings) -> np.ndarray:
    """The pictures, int (B, R, R, 3)."""
    *_, last = model.generate(prompt, seeds, **{"num_inference_steps": STEPS, "guidance_scale": SCALE} | settings)
    return np.stack([np.asarray(picture) for picture in model.decode(last.latents)]).astype(int)


def stock(folder, pipeline=DiffusionPipeline):
    pipe = pipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def pixels(picture) -> np.ndarray:
    return np.asarray(picture).astype(int)


def picture_of(size=(32, 32)) -> Image.Image:
    ramp = np.linspace(0, 255, size[0] * size[1] * 3).reshape(size[1], size[0], 3)
    return Image.fromarray(ramp.astype(np.uint8))


@pytest.mark.parametrize("kind", ["foreign", "ours"])
def test_every_sampler_draws_what_the_stock_pipeline_draws(folders, models, kind):
    pipe, seen = stock(folders[kind]), []
    for sampler in contract.SAMPLERS:
        pipe.scheduler = models[kind].scheduler(sampler)
        draw = torch.Generator().manual_seed(3)
        theirs = pipe(PROMPT, generator=draw, num_inference_steps=STEPS, guidance_scale=SCALE).images[0]
        mine = drawn(models[kind], sampler=sampler)[0]
        assert np.abs(mine - pixels(theirs)).max() <= 1, sampler
        seen.append(mine)
    assert all((a != b).any() for i, a in enumerate(seen) for b in seen[:i]), "five samplers, five pictures"


def test_the_folder_as_it_is_draws_the_same_by_the_library_alone(folders, models):
    for kind, folder in folders.items():
        draw = torch.Generator().manual_seed(9)
        theirs = stock(folder)(PROMPT, generator=draw, num_inference_steps=10).images[0]  # guidance 7.5 is its default
        mine = drawn(models[kind], seeds=[9], num_inference_steps=10, guidance_scale=7.5, sampler="ddim")
        assert np.abs(mine[0] - pixels(theirs)).max() <= 1


def test_image_to_image_is_the_stock_one(folders, model):
    pipe = stock(folders["ours"], StableDiffusionImg2ImgPipeline)
    for sampler in contract.SAMPLERS:
        pipe.scheduler = model.scheduler(sampler)
        for strength in (0.3, 0.8, 1.0):
            draw = [torch.Generator().manual_seed(3)]
            theirs = pipe(
                PROMPT, picture_of(), strength, num_inference_steps=STEPS, guidance_scale=SCALE, generator=draw
            )
            mine = drawn(model, image=picture_of(), strength=strength, sampler=sampler)[0]
            assert np.abs(mine - pixels(theirs.images[0])).max() <= 1, (sampler, strength)


def test_a_weaker_image_to_image_stays_nearer_to_its_picture(model):
    start = model.pipe.vae.encode(model.to_tensor(picture_of())).latent_dist.mode()
    back = pixels(model.decode(start * model.pipe.vae.config.scaling_factor)[0])  # what no change at all would give
    apart = [
        np.abs(drawn(model, image=picture_of(), strength=s, num_inference_steps=10)[0] - back).mean()
        for s in (0.1, 0.3, 0.9)
    ]
    assert apart[0] < apart[1] < apart[2]


@pytest.mark.parametrize("sampler", ["dpm++", "ddpm"])
def test_a_picture_of_a_batch_is_that_of_its_seed_alone(model, sampler):
    seeds = [5, 2**63 - 1, 0]
    together = drawn(model, seeds=seeds, sampler=sampler)
    again = drawn(model, seeds=seeds, sampler=sampler, image=picture_of())
    for k, seed in enumerate(seeds):
        assert np.abs(together[k] - drawn(model, seeds=[seed], sampler=sampler)[0]).max() <= 1
        alone = drawn(model, seeds=[seed], sampler=sampler, image=picture_of())[0]
        assert np.abs(again[k] - alone).max() <= 1
    assert (together[0] != together[1]).any()
    mixed = drawn(model, prompt=[PROMPT, "a blue cat", PROMPT], seeds=seeds, sampler=sampler)
    assert np.abs(mixed[2] - together[2]).max() <= 1 and np.abs(mixed[1] - together[1]).max() > 1


def test_what_is_asked_makes_a_difference(folders, model):
    plain = drawn(model)[0]
    away = drawn(model, negative_prompt="a blue cat")[0]
    assert np.abs(plain - away).max() > 3
    theirs = stock(folders["ours"])
    theirs.scheduler = model.scheduler("unipc")
    picture = theirs(
        PROMPT,
        negative_prompt="a blue cat",
        num_inference_steps=STEPS,
        guidance_scale=SCALE,
        generator=torch.Generator().manual_seed(3),
    ).images[0]
    assert np.abs(away - pixels(picture)).max() <= 1
    assert np.abs(plain - drawn(model, prompt="a blue cat")[0]).max() > 3
    assert np.abs(plain - drawn(model, guidance_scale=9)[0]).max() > 3
    assert np.abs(drawn(model, prompt="", guidance_scale=9) - drawn(model, prompt=" \n", guidance_scale=1)).max() <= 1


def test_a_prompt_that_is_too_long_is_cut_and_it_says_what(models):
    long = "a red apple in the house of the cat of the dog of the car"
    for model in models.values():
        assert model.was_cut(PROMPT[:11]) is None and model.was_cut("") is None
        cut = model.was_cut(long)
        assert cut and long.endswith(cut)
        assert model.was_cut(long.removesuffix(cut)) is None
        assert (drawn(model, long) == drawn(model, long.removesuffix(cut))).all()


def test_prompts_that_are_read_meanwhile_change_nothing_of_what_a_drawing_is_told(models):
    """The page reads a prompt at every key, in a thread of its own; tokenizers keep how they cut and pad, for all."""
    for model in models.values():
        told, over, other = model.text_states([PROMPT]), threading.Event(), []

        def read(model=model, over=over):
            while not over.is_set():
                model.was_cut(PROMPT)
                model.words(PROMPT)

        def tell(model=model, told=told, other=other):
            other.append([k for k in range(100) if not torch.equal(model.text_states([PROMPT]), told)])

        readers, tellers = ([threading.Thread(target=each) for _ in range(2)] for each in (read, tell))
        for thread in (*readers, *tellers):
            thread.start()
        for thread in tellers:
            thread.join()
        over.set()
        for thread in readers:
            thread.join()
        assert other == [[], []]


def test_normalised_prompts():
    for text, clean in {
        "a  red\tapple\r\n": "a red apple",
        "a\x00b\x07c": "a b c",
        "\u202ered\u202c \u2066apple\u2069\u200f": "red apple",
        "a\ud83cb": "ab",
        "\ud83c\udf4e": "\U0001f34e",
        "e\u0301": "\u00e9",
        "\U0001f468\u200d\U0001f373 cook": "\U0001f468\u200d\U0001f373 cook",
        "zero\u200bwidth\ufeff": "zerowidth",
        "\u2028line": "line",
        "": "",
    }.items():
        assert contract.normalise_prompt(text) == clean
        assert contract.normalise_prompt(clean) == clean
        clean.encode()
    for wrong in (None, 3, b"bytes", ["a"]):
        with pytest.raises(ValueError, match="text"):
            contract.normalise_prompt(wrong)


def test_steps_are_watched_and_closing_stops(model):
    evaluations = []
    counted = model.pipe.unet.register_forward_pre_hook(lambda *_: evaluations.append(1))
    try:
        steps = model.generate(PROMPT, [1, 2], num_inference_steps=50)
        assert not evaluations, "nothing is drawn before it is asked for"
        first, second = next(steps), next(steps)
        steps.close()
        assert len(evaluations) == 2
    finally:
        counted.remove()
    assert (first.index, second.index, first.total) == (0, 1, 50) and first.timestep > second.timestep
    assert second.latents.shape == second.x0.shape == (2, 4, 8, 8)
    assert (model.preview(second.x0) == second.preview).all()
    assert second.preview.shape == (2, 8, 8, 3) and second.preview.dtype == np.uint8


def test_previews_are_the_linear_map_of_the_guess_of_the_clean_latents(models):
    model = models["ours"]
    for sampler in ("ddim", "euler"):  # whose last step ends on that guess
        *_, last = model.generate(PROMPT, [1], num_inference_steps=5, sampler=sampler)
        weight, bias = np.array(EXTRA["latent_to_rgb"]), np.array(EXTRA["latent_to_rgb_bias"])
        colour = last.latents[0].permute(1, 2, 0).numpy() @ weight + bias
        expected = (np.clip(colour / 2 + 0.5, 0, 1) * 255).round()
        assert np.abs(last.preview[0] - expected).max() <= 1
        torch.testing.assert_close(last.x0, last.latents, atol=1e-4, rtol=1e-4)
    assert next(models["foreign"].generate(PROMPT, [1], num_inference_steps=2)).preview is None


def test_defaults_are_those_of_the_folder(models):
    ours, foreign = models["ours"], models["foreign"]
    assert (ours.default_guidance, ours.default_steps, ours.default_sampler) == (2.5, 4, "unipc")
    assert ours.styles == ["noto"] and ours.resolution_px == 32 and ours.max_length == 12
    assert (foreign.default_guidance, foreign.default_sampler, foreign.styles) == (7.5, "dpm++", [])
    assert len(list(ours.generate(PROMPT, [1]))) == 4
    spelled_out = drawn(ours, num_inference_steps=4, guidance_scale=2.5, sampler="unipc")
    assert (spelled_out == drawn(ours, num_inference_steps=None, guidance_scale=None)).all()
    assert ours.parameters == sum(
        p.numel() for n in ("unet", "vae", "text_encoder") for p in getattr(ours.pipe, n).parameters()
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prompt": 3}, "text, not int"),
        ({"prompt": "x" * 2001}, "2000"),
        ({"negative_prompt": "x" * 2001}, "2000"),
        ({"prompt": ["a", "b"]}, "2 prompts for 1 seeds"),
        ({"seeds": []}, "one for each picture"),
        ({"seeds": [-1]}, "2\\*\\*63"),
        ({"seeds": [2**70]}, "2\\*\\*63"),
        ({"seeds": [1.5]}, "2\\*\\*63"),
        ({"seeds": [True]}, "2\\*\\*63"),
        ({"seeds": list(range(65))}, "at most 64"),
        ({"num_inference_steps": 0}, "1 to 1000"),
        ({"num_inference_steps": 2.5}, "1 to 1000"),
        ({"num_inference_steps": 1001}, "1 to 1000"),
        ({"guidance_scale": float("nan")}, "1 to 30"),
        ({"guidance_scale": 0.5}, "1 to 30"),
        ({"guidance_scale": 1e9}, "1 to 30"),
        ({"sampler": "euler a"}, "dpm\\+\\+, ddim"),
        ({"image": picture_of(), "strength": 0}, "strength"),
        ({"image": picture_of(), "strength": float("nan")}, "strength"),
    ],
)
def test_what_is_out_of_range_is_refused_before_the_first_step(model, change, words):
    with pytest.raises(ValueError, match=words):
        model.generate(**({"prompt": PROMPT, "seeds": [1]} | change))


def test_any_picture_can_be_the_start(model):
    for size in ((1, 1), (100, 7), (32, 32)):
        for mode in ("RGB", "RGBA", "L", "P", "LA"):
            tensor = model.to_tensor(picture_of(size).convert("RGB").convert(mode))
            assert tensor.shape == (1, 3, 32, 32) and tensor.min() >= -1 and tensor.max() <= 1
    assert (model.to_tensor(Image.new("RGBA", (5, 9), (0, 0, 0, 0))) == 1).all(), "transparency is white"


# ---- receipts --------------------------------------------------------------------------------------------------------


def through_png(receipt: dict, picture: Image.Image, path) -> tuple[dict, Image.Image]:
    """Text chunks and picture, as a file gives them back."""
    info = PngImagePlugin.PngInfo()
    info.add_itxt(contract.RECEIPT_KEY, json.dumps(receipt))
    info.add_itxt(contract.PARAMETERS_KEY, contract.parameters_text(receipt))
    picture.save(path, pnginfo=info)
    with Image.open(path) as image:
        image.load()
        return dict(image.text), image.convert("RGB")


@pytest.fixture
def with_receipt(model):
    settings = {
        "negative_prompt": 'blue, "cat": dog',
        "num_inference_steps": 5,
        "guidance_scale": 2.25,
        "sampler": "ddim",
    }
    *_, last = model.generate(PROMPT, [2**62], **settings)
    picture = model.decode(last.latents)[0]
    return model.receipt(PROMPT, 2**62, picture=picture, **settings), picture


def test_a_receipt_survives_its_png_and_draws_the_same_again(model, with_receipt, tmp_path):
    receipt, picture = with_receipt
    text, picture = through_png(receipt, picture, tmp_path / "drawn.png")
    assert contract.read_receipt(text) == receipt
    assert model.verify(contract.read_receipt(text), picture) == contract.Verdict("identical", ())
    assert receipt["seed"] == str(2**62) and receipt["weights_sha256"] == model.weights_sha256
    assert receipt["versions"]["torch"] == torch.__version__ and receipt["device"] == "cpu"


def test_the_text_for_other_programs_says_the_same(with_receipt):
    receipt, _ = with_receipt
    text = contract.parameters_text(receipt)
    first, negative, settings = text.split("\n")
    assert first == PROMPT and negative == f"Negative prompt: {receipt['negative_prompt']}"
    assert settings.startswith(f"Steps: 5, Sampler: DDIM, CFG scale: 2.25, Seed: {2**62}, Size: 32x32, Model hash: ")
    read = contract.read_receipt({contract.PARAMETERS_KEY: text})
    said = "prompt negative_prompt seed num_inference_steps guidance_scale sampler size model".split()
    assert read.items() >= {key: receipt[key] for key in said}.items()


def test_the_text_of_other_programs_is_read():
    theirs = (
        "cat,\n(best quality:1.2)\nNegative prompt: bad hands,\nblurry\nSteps: 20, Sampler: DPM++ 2M, "
        "Schedule type: Karras, CFG scale: 7, Seed: 965400086, Size: 512x768, Model hash: 6ce0161689, "
        'Lora hashes: "a: 1, b: 2", Denoising strength: 0.4, Version: v1.9.3'
    )
    assert contract.read_parameters(theirs) == {
        "prompt": "cat, (best quality:1.2)",
        "negative_prompt": "bad hands, blurry",
        "num_inference_steps": 20,
        "sampler": "dpm++",
        "guidance_scale": 7.0,
        "seed": "965400086",
        "size": [512, 768],
        "strength": 0.4,
        "model_hash": "6ce0161689",
    }
    assert "sampler" not in contract.read_parameters("x\nSteps: 2, Sampler: Euler a, Seed: 1")


@pytest.mark.parametrize(
    "text",
    [
        {},
        {"Software": "paint"},
        {"vitrail": "{"},
        {"vitrail": "[]"},
        {"vitrail": "null"},
        {"vitrail": "[" * 10**6},
        {"vitrail": "[" * 10**4},
        {"vitrail": f'{{"prompt": "a", "seed": "1", "x": {"[" * 300 + "]" * 300}}}'},
        {"vitrail": json.dumps({"prompt": "a" * 10**5, "seed": "1"})},
        {"parameters": "a" * 10**6},
        {"parameters": "a" * 60_000},  # in no time
        {"vitrail": '{"labels": ["face"], "seeds": ["1"]}'},  # of another page
        {"parameters": "a prompt and nothing else"},
        {"parameters": "x\nSteps: many, Seed: 1"},
        {"parameters": "x\nSteps: 3, Seed: -1"},
        {"parameters": 'x\nSteps: 3, Model: "\\x"'},
        {"parameters": ""},
    ],
)
def test_no_receipt_or_a_broken_one_is_said_in_words(text):
    with pytest.raises(contract.ReceiptError, match="picture"):
        contract.read_receipt(text)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompt", "a blue cat"),
        ("negative_prompt", ""),
        ("seed", "5"),
        ("num_inference_steps", 9),
        ("guidance_scale", 7.0),
        ("sampler", "dpm++"),
    ],
)
def test_a_setting_altered_by_hand_is_named(model, with_receipt, field, value):
    receipt, picture = with_receipt
    assert model.verify(receipt | {field: value}, picture) == contract.Verdict("different", (field,))


def test_verify_names_what_else_does_not_fit(model, models, with_receipt):
    receipt, picture = with_receipt
    painted = picture.copy()
    painted.putpixel((4, 4), (255, 0, 255))
    assert model.verify(receipt, painted) == contract.Verdict("different", ("picture",))
    assert model.verify(receipt | {"model": "theirs"}, picture) == contract.Verdict("identical", ("model",))
    off = Image.fromarray(np.clip(pixels(picture) + 1, 0, 255).astype(np.uint8))
    assert model.verify({k: v for k, v in receipt.items() if k != "picture_sha256"} | {"checks": None}, off) == (
        contract.Verdict("within 1/255", ())
    )
    assert "weights_sha256" in models["foreign"].verify(receipt, picture).fields
    assert "size" in model.verify(receipt, picture.resize((16, 16))).fields
    for size in (5, None, {}, "32x32", [[32], 32]):
        assert model.verify(receipt | {"size": size}, picture) == contract.Verdict("identical", ("size",))
    broken_ones = [
        {"sampler": "heun"},
        {"seed": "x"},
        {"num_inference_steps": 0},
        {"prompt": None},
        {"seed": float("inf")},
        {"guidance_scale": 10**400},
    ]
    broken_ones += [{"steps_done": done} for done in (0, 6, "2", 2.5, True, [3])]
    for broken in broken_ones:
        with pytest.raises(contract.ReceiptError, match="drawn again"):
            model.verify(receipt | broken, picture)
    with pytest.raises(contract.ReceiptError, match="no sampler"):
        model.verify({k: v for k, v in receipt.items() if k != "sampler"}, picture)


def test_a_redrawn_picture_is_verified_with_its_start(model):
    settings = {"image": picture_of(), "strength": 0.5, "num_inference_steps": 4}
    *_, last = model.generate(PROMPT, [1], **settings)
    picture = model.decode(last.latents)[0]
    receipt = model.receipt(PROMPT, 1, picture=picture, **settings)
    assert "Denoising strength: 0.5" in contract.parameters_text(receipt)
    assert model.verify(receipt, picture, image=picture_of()) == contract.Verdict("identical", ())
    other = model.verify(receipt, picture, image=Image.new("RGB", (32, 32)))
    assert other == contract.Verdict("different", ("image_sha256",))
    with pytest.raises(contract.ReceiptError, match="give that one"):
        model.verify(receipt, picture)


@pytest.mark.parametrize("start", [{}, {"image": picture_of(), "strength": 0.5}])
def test_a_stopped_drawing_is_drawn_again_as_far(model, start):
    settings = {"num_inference_steps": 8, "sampler": "dpm++", **start}
    steps = list(model.generate(PROMPT, [1], **settings))
    stopped = model.decode(steps[1].x0)[0]
    receipt = model.receipt(PROMPT, 1, picture=stopped, steps_done=2, **settings)
    watched = []
    verdict = model.verify(receipt, stopped, image=start.get("image"), on_step=watched.append)
    assert verdict == contract.Verdict("identical", ()) and [step.index for step in watched] == [0, 1]
    for other in (3, None):  # None: to the last step, as without the field
        verdict = model.verify(receipt | {"steps_done": other}, stopped, image=start.get("image"))
        assert verdict == contract.Verdict("different", ("steps_done",))
    assert "steps_done" not in model.receipt(PROMPT, 1, steps_done=len(steps), **settings)
    for wrong in (0, len(steps) + 1, 1.0, True):
        with pytest.raises(ValueError, match=f"1 to {len(steps)}"):
            model.receipt(PROMPT, 1, steps_done=wrong, **settings)


def test_what_watches_a_verification_can_end_it(model, with_receipt):
    receipt, picture = with_receipt
    evaluations = []

    def tired(step):
        evaluations.append(step)
        raise TimeoutError

    with pytest.raises(TimeoutError):
        model.verify(receipt, picture, on_step=tired)
    assert len(evaluations) == 1


# ---- folders ---------------------------------------------------------------------------------------------------------


def test_save_and_load_keep_every_number(model, tmp_path):
    contract.save_folder(tmp_path, model.pipe, **EXTRA)
    again = contract.load(str(tmp_path), device="cpu")
    assert (drawn(again) == drawn(model)).all()
    halves.to_half(tmp_path)
    half = contract.load(str(tmp_path), device="cpu")
    assert {p.dtype for n in ("unet", "vae", "text_encoder") for p in getattr(half.pipe, n).parameters()} == {
        torch.float32
    }
    plain = DiffusionPipeline.from_pretrained(tmp_path)
    assert {plain.unet.dtype, plain.vae.dtype, plain.text_encoder.dtype} == {torch.float32}
    with pytest.raises(ValueError, match="temperature"):
        contract.save_folder(tmp_path, model.pipe, temperature=1)


def test_a_safety_checker_blurs_and_never_blackens(folders, tmp_path):
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(vision_config={**tower, "image_size": 32, "patch_size": 8}, text_config=tower, projection_dim=8)
    pipe = stock(folders["ours"])
    pipe.register_modules(
        safety_checker=StableDiffusionSafetyChecker(config), feature_extractor=CLIPImageProcessor(size=32, crop_size=32)
    )
    pipe.safety_checker.concept_embeds_weights.data.fill_(-9)  # it objects to everything
    pipe.save_pretrained(tmp_path)
    strict = contract.load(str(tmp_path), device="cpu")
    *_, last = strict.generate(PROMPT, [1], num_inference_steps=2)
    blurred = pixels(strict.decode(last.latents)[0])
    strict.pipe.safety_checker = None
    plain = pixels(strict.decode(last.latents)[0])
    assert (
        blurred.mean() == pytest.approx(plain.mean(), abs=3) and blurred.std((0, 1)).max() < plain.std((0, 1)).max() / 2
    )


def spoil(folder, what):
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    if what == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif what == "pointer":
        weights.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    elif what == "no vae":
        shutil.rmtree(folder / "vae")
    elif what == "pickle":
        weights.rename(weights.with_suffix(".bin"))
    elif what == "keys":
        from safetensors.torch import load_file, save_file

        tensors = load_file(weights)
        save_file({key: value for key, value in tensors.items() if "conv_in" not in key}, weights)
    else:
        path, change = what
        path = folder / path
        path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | change))


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("truncated", "cut short"),
        ("pointer", "git-lfs"),
        ("no vae", "vae is missing"),
        ("pickle", "unet"),
        ("keys", "conv_in"),
        (("model_index.json", {"_class_name": "DDPMPipeline"}), "StableDiffusionPipeline"),
        (("model_index.json", {"unet": ["os", "UNet2DConditionModel"]}), "use a checkpoint of a stock class"),
        (("unet/config.json", {"block_out_channels": [16, 64]}), "unet"),
        (("unet/config.json", {"sample_size": [8, 16]}), "square"),
        (("vae/config.json", {"latent_channels": 8}), "vae"),
        (
            ("scheduler/scheduler_config.json", {"prediction_type": "flow_prediction"}),
            "prediction_type|scheduler|pipeline",
        ),
        (("preprocessor_config.json", {"latent_to_rgb": [[1, 2, 3]]}), "latent_to_rgb"),
        (("preprocessor_config.json", {"default_sampler": "heun"}), "default_sampler"),
        (("preprocessor_config.json", {"guidance_scale": "big"}), "guidance_scale"),
        (("preprocessor_config.json", {"resolution_px": 30}), "resolution_px"),
        (("tokenizer/tokenizer_config.json", {"model_max_length": 77}), "model_max_length"),
    ],
)
def test_a_bad_checkpoint_is_one_sentence(folders, tmp_path, what, words):
    folder = shutil.copytree(folders["foreign"], tmp_path / "bad")
    spoil(folder, what)
    with pytest.raises(store.CheckpointError, match=words) as error:
        contract.load(str(folder), device="cpu")
    assert str(folder) in str(error.value)
