"""hub_models/ddpm.py against hand-written samplers, stock diffusers, and itself drawn alone."""

import itertools
import json

import numpy as np
import pytest
import tiny_models
import torch
from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler, UNet2DModel
from PIL import Image

from hub_models import ddpm, drawing, samplers, store
from hub_models.publish import halves

LABELS = ("circle", "square", "star")
NULL = 3


def small_unet(num_class_embeds=NULL + 1, seed=0):
    torch.manual_seed(seed)
    return tiny_models.unet(classes=num_class_embeds, attention=True)


def small_model(prediction_type="epsilon", schedule="linear", **kwargs):
    scheduler = DDPMScheduler(100, prediction_type=prediction_type, beta_schedule=schedule, **kwargs)
    return ddpm.DDPM(small_unet(), scheduler, label_names=LABELS, null_label=NULL, guidance_scale=3.0)


def save(folder, unet, conditional=True, **scheduler):
    ddpm.save_folder(
        folder,
        unet,
        DDPMScheduler(100, **scheduler),
        label_names=LABELS if conditional else (),
        null_label=NULL if conditional else None,
        resolution_px=16,
        guidance_scale=3.0 if conditional else 1.0,
    )
    return folder


def last(steps):
    *_, step = steps
    return step


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("num_inference_steps", [1, 7, 20])  # 7 does not divide 100: there DDIMScheduler goes wrong
def test_ddim_is_song_eq_12(prediction_type, num_inference_steps):
    model = small_model(prediction_type, clip_sample=False)
    seeds, labels = [3, 4], [0, 2]
    mine = last(model.generate(labels, seeds, num_inference_steps=num_inference_steps, guidance_scale=2.5)).x_t

    x = torch.cat([torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    bars = model.scheduler.alphas_cumprod
    times = [round(100 * (num_inference_steps - i) / num_inference_steps) - 1 for i in range(num_inference_steps)]
    for t, t_next in zip(times, [*times[1:], None], strict=True):
        bar, bar_next = bars[t], torch.tensor(1.0) if t_next is None else bars[t_next]
        with torch.no_grad():
            null = model.unet(x, t, class_labels=torch.tensor([NULL, NULL])).sample
            label = model.unet(x, t, class_labels=torch.tensor(labels)).sample
        output = null + 2.5 * (label - null)
        if prediction_type == "epsilon":
            eps, x0 = output, (x - (1 - bar).sqrt() * output) / bar.sqrt()
        else:
            eps, x0 = bar.sqrt() * output + (1 - bar).sqrt() * x, bar.sqrt() * x - (1 - bar).sqrt() * output
        x = bar_next.sqrt() * x0 + (1 - bar_next).sqrt() * eps
    assert (mine - x).abs().max() < 1e-5 * max(1, x.abs().max())


def test_ddim_where_steps_divide_is_the_stock_one():
    model = small_model("v_prediction", "squaredcos_cap_v2")
    mine = last(model.generate([1], [5], num_inference_steps=20, guidance_scale=1)).x_t
    stock = DDIMScheduler(
        100, prediction_type="v_prediction", beta_schedule="squaredcos_cap_v2", timestep_spacing="trailing"
    )
    stock.set_timesteps(20)
    x = model.initial_noise([5])
    for t in stock.timesteps:
        with torch.no_grad():
            output = model.unet(x, t, class_labels=torch.tensor([1])).sample
        x = stock.step(output, t, x, use_clipped_model_output=True).prev_sample
    assert (mine - x).abs().max() < 1e-5


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("scheduler_class", [DDPMScheduler, DDIMScheduler])
def test_predicted_x0_is_the_schedulers_own(prediction_type, scheduler_class):
    scheduler = scheduler_class(100, prediction_type=prediction_type, clip_sample=False)
    scheduler.set_timesteps(100)
    generator = torch.Generator().manual_seed(0)
    x_t, output = torch.randn(2, 2, 3, 8, 8, generator=generator)
    for t in (0, 40, 99):
        expected = scheduler.step(output, t, x_t).pred_original_sample
        found = ddpm.predict_x0(output, x_t, scheduler.alphas_cumprod[t], prediction_type)
        assert torch.allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_a_perfect_noise_prediction_gives_the_picture_back():
    x0, noise = torch.rand(2, 1, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    scheduler = DDPMScheduler(100)
    t = torch.tensor([60])
    x_t, v = scheduler.add_noise(x0, noise, t), scheduler.get_velocity(x0, noise, t)
    bar = scheduler.alphas_cumprod[60]
    assert torch.allclose(ddpm.predict_x0(noise, x_t, bar, "epsilon"), x0, atol=1e-5)
    assert torch.allclose(ddpm.predict_x0(v, x_t, bar, "v_prediction"), x0, atol=1e-5)


def test_guidance_formula_and_its_two_fixed_points():
    null, label = torch.randn(2, 1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(drawing.guide(null, label, 0), null)
    assert torch.allclose(drawing.guide(null, label, 1), label)
    assert torch.allclose(drawing.guide(null, label, 3), 3 * label - 2 * null, atol=1e-6)


def test_guidance_one_costs_one_evaluation_a_step_and_more_costs_a_batch_of_two():
    model, sizes = small_model(), []
    model.unet.register_forward_pre_hook(lambda module, args: sizes.append(args[0].shape[0]))
    last(model.generate([0, 1], [0, 1], num_inference_steps=2, guidance_scale=1))
    last(model.generate([0, 1], [0, 1], num_inference_steps=2, guidance_scale=4))
    last(model.generate([None, "any"], [0, 1], num_inference_steps=2, guidance_scale=4))
    assert sizes == [2, 2, 4, 4, 2, 2]


@pytest.mark.parametrize("sampler", samplers.SAMPLERS)
def test_a_picture_of_a_batch_is_the_one_drawn_alone(sampler):
    model = small_model("v_prediction", "squaredcos_cap_v2")
    labels, seeds = [0, "star", None], [0, 2**63 - 1, 7]
    batch = ddpm.to_uint8(last(model.generate(labels, seeds, num_inference_steps=9, sampler=sampler)).x_t)
    for k in range(3):
        alone = last(model.generate([labels[k]], [seeds[k]], num_inference_steps=9, sampler=sampler)).x_t
        assert np.abs(batch[k].astype(int) - ddpm.to_uint8(alone)[0]).max() <= 1
    assert np.abs(batch[0].astype(int) - batch[1]).max() > 20


@pytest.mark.parametrize("sampler", samplers.SAMPLERS)
@pytest.mark.parametrize("schedule", ["linear", "squaredcos_cap_v2"])
def test_the_last_step_leaves_the_picture_and_every_step_is_finite(sampler, schedule):
    model = small_model("v_prediction", schedule, timestep_spacing="trailing")
    steps = list(model.generate([0], [1], num_inference_steps=11, sampler=sampler))
    assert [step.index for step in steps] == list(range(11)) and {step.total for step in steps} == {11}
    assert steps[0].timestep == 99 and all(a.timestep >= b.timestep for a, b in itertools.pairwise(steps))
    assert len({step.timestep for step in steps}) == (3 if sampler == "langevin" else 11)
    assert all(torch.isfinite(step.x_t).all() and step.x0.abs().max() <= 1 for step in steps)
    assert torch.allclose(steps[-1].x_t, steps[-1].x0, atol=1e-3)


def test_closing_the_iterator_stops_it():
    model, calls = small_model(), []
    model.unet.register_forward_pre_hook(lambda module, args: calls.append(1))
    steps = model.generate([0], [0], num_inference_steps=50)
    next(steps), next(steps)
    steps.close()
    assert len(calls) == 2
    with pytest.raises(StopIteration):
        next(steps)


@pytest.mark.parametrize("sampler", ["ddim", "dpm++"])
def test_from_noise_of_ones_own_and_from_the_middle_it_draws_what_it_drew(sampler):
    model, how = small_model(), {"num_inference_steps": 6, "sampler": sampler}
    whole = list(model.generate([0, 2], [3, 4], **how))
    again = list(model.generate([0, 2], [0, 0], start=model.initial_noise([3, 4]), **how))
    assert torch.equal(again[-1].x_t, whole[-1].x_t) and [step.index for step in again] == list(range(6))
    rest = list(model.generate([0, 2], [3, 4], start=whole[3].x_t, done=4, **how))
    assert [step.index for step in rest] == [4, 5] and rest[0].timestep == whole[4].timestep
    assert torch.equal(rest[0].x0, whole[4].x0)
    if sampler == "ddim":  # the other one remembers the step before
        assert torch.equal(rest[-1].x_t, whole[-1].x_t)
    for wrong in ({"done": 1}, {"start": whole[0].x_t, "done": 6}, {"start": whole[0].x_t[:1]}):
        with pytest.raises(ValueError, match="done|start"):
            model.generate([0, 2], [3, 4], **(how | wrong))


def test_gradients_stay_as_the_caller_has_them_between_steps():
    steps = small_model().generate([0], [0], num_inference_steps=3)
    next(steps)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"labels": ["moon"]}, "circle, square, star, any"),
        ({"labels": [3]}, "from 0 to 2"),
        ({"labels": [True]}, "unknown"),
        ({"labels": [0, 1]}, "2 labels for 1 seeds"),
        ({"labels": [], "seeds": []}, "one label and one seed"),
        ({"seeds": [2**63]}, r"2\*\*63"),
        ({"seeds": [-1]}, r"2\*\*63"),
        ({"seeds": [1.5]}, r"2\*\*63"),
        ({"num_inference_steps": 0}, "from 1 to 100"),
        ({"num_inference_steps": 101}, "from 1 to 100"),
        ({"num_inference_steps": 2.5}, "from 1 to 100"),
        ({"guidance_scale": float("nan")}, "finite"),
        ({"sampler": "euler"}, r"ddpm, ddim, dpm\+\+"),
    ],
)
def test_what_cannot_be_drawn_is_said_before_the_first_step(arguments, words):
    with pytest.raises(ValueError, match=words):
        small_model().generate(**({"labels": [0], "seeds": [0]} | arguments))


def test_forward_process_is_ho_eq_4():
    model = small_model()
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8))
    x_t, x0 = model.forward_process(picture, 30, seed=9)
    noise = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(9))
    expected = model.scheduler.add_noise(model.to_tensor(picture), noise, torch.tensor([30]))
    assert np.array_equal(np.array(x_t), ddpm.to_uint8(expected)[0])
    with torch.no_grad():
        eps = model.unet(expected, 30, class_labels=torch.tensor([NULL])).sample
    guess = model.scheduler.step(eps, 30, expected).pred_original_sample
    assert np.abs(np.array(x0).astype(int) - ddpm.to_uint8(guess)[0]).max() <= 1
    with pytest.raises(ValueError, match="from 0 to 99"):
        model.forward_process(picture, 100, seed=9)


def test_an_uploaded_picture_is_laid_on_the_ground_and_padded_to_a_square():
    pixels = np.array(small_model().to_pil(small_model().to_tensor(Image.new("RGBA", (40, 10), (255, 0, 0, 255))))[0])
    assert pixels.shape == (16, 16, 3)
    assert tuple(pixels[0, 8]) == (255, 255, 255) and tuple(pixels[8, 8]) == (255, 0, 0)
    clear = small_model().to_tensor(Image.new("RGBA", (8, 8), (0, 0, 0, 0)))
    assert torch.equal(clear, torch.ones(1, 3, 16, 16))


def test_the_conditional_folder_opens_in_stock_classes_in_fp32(tmp_path):
    unet = small_unet()
    halves.to_half(save(tmp_path, unet, prediction_type="v_prediction"))
    stock, scheduler = (
        UNet2DModel.from_pretrained(tmp_path / "unet"),
        DDPMScheduler.from_pretrained(tmp_path, subfolder="scheduler"),
    )
    assert scheduler.config.prediction_type == "v_prediction" and stock.config.num_class_embeds == 4
    x, label = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor([1])
    with torch.no_grad():
        rounded = {k: v.half().float() for k, v in unet.state_dict().items()}
        unet.load_state_dict(rounded)
        assert torch.equal(stock(x, 3, class_labels=label).sample, unet(x, 3, class_labels=label).sample)
    model = ddpm.load(str(tmp_path), device="cpu")
    assert not model.unet.training
    assert (model.label_names, model.null_label, model.default_guidance) == (list(LABELS), NULL, 3.0)


def test_the_unconditional_folder_runs_in_stock_ddpmpipeline_and_draws_our_picture(tmp_path):
    save(tmp_path, small_unet(num_class_embeds=None), conditional=False)
    pipeline = DDPMPipeline.from_pretrained(tmp_path)
    pipeline.set_progress_bar_config(disable=True)
    stock = pipeline(generator=torch.Generator().manual_seed(11), num_inference_steps=10).images[0]
    model = ddpm.load(str(tmp_path), device="cpu")
    mine = model.to_pil(last(model.generate([None], [11], num_inference_steps=10, sampler="ddpm")).x_t)[0]
    assert np.abs(np.array(mine).astype(int) - np.array(stock)).max() <= 1
    with pytest.raises(ValueError, match="unconditional"):
        model.generate(["face"], [0])
    with pytest.raises(ValueError, match="guidance_scale to 1"):
        model.generate([None], [0], guidance_scale=2.0)


def test_a_stock_folder_without_our_file_is_served_with_numbers_for_names(tmp_path):
    DDPMPipeline(small_unet(), DDPMScheduler(100)).save_pretrained(tmp_path)
    model = ddpm.load(str(tmp_path), device="cpu")
    assert (model.label_names, model.null_label, model.default_guidance) == (["0", "1", "2", "3"], None, 1.0)
    assert last(model.generate(["2"], [0], num_inference_steps=2)).x_t.shape == (1, 3, 16, 16)
    with pytest.raises(ValueError, match="no null label"):
        model.generate([None], [0])


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda f: (f / "model_index.json").unlink(), "model_index.json"),
        (lambda f: edit(f / "model_index.json", _class_name="StableDiffusionPipeline"), "StableDiffusionPipeline"),
        (lambda f: (f / "unet/config.json").write_text("<html>"), "unet"),
        (lambda f: edit(f / "unet/config.json", block_out_channels=[32, 32]), "unet"),
        (lambda f: edit(f / "unet/config.json", num_class_embeds=None), "disagree|Unexpected key"),
        (lambda f: edit(f / "unet/config.json", layers_per_block=2), "size mismatch|Missing key"),
        (lambda f: (f / "scheduler/scheduler_config.json").unlink(), "scheduler"),
        (lambda f: edit(f / "scheduler/scheduler_config.json", prediction_type="flow"), "prediction_type 'flow'"),
        (lambda f: edit(f / "preprocessor_config.json", null_label=9), "null_label 9"),
        (lambda f: edit(f / "preprocessor_config.json", label_names=["a"] * 5), "5 label_names for 4"),
        (lambda f: (f / "preprocessor_config.json").write_text("[]"), "preprocessor_config.json"),
    ],
)
def test_a_bad_folder_is_a_checkpoint_error_that_names_the_cause(tmp_path, spoil, words):
    spoil(save(tmp_path, small_unet()))
    with pytest.raises(store.CheckpointError, match=words):
        ddpm.load(str(tmp_path))


def test_save_folder_refuses_labels_the_embedding_has_no_row_for(tmp_path):
    with pytest.raises(ValueError, match="5 label_names for 4"):
        ddpm.save_folder(
            tmp_path,
            small_unet(),
            DDPMScheduler(100),
            label_names=list("abcde"),
            null_label=None,
            resolution_px=16,
            guidance_scale=1.0,
        )
