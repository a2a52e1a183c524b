"""Students that draw in few steps: their lesson against closed forms, their folders against the stock pipelines."""

import copy
import dataclasses
import json
import shutil

import numpy as np
import pytest
import tiny_models
import torch
from diffusers import DiffusionPipeline, LCMScheduler, StableDiffusionImg2ImgPipeline
from PIL import Image
from safetensors.torch import load_file

from hub_models import text_to_image as contract
from training import checkpoint
from training import text_to_image as script
from training.text_to_image import few_steps, latents
from training.text_to_image.few_steps import Student

PROMPT, UNET = "a red apple", "unet/diffusion_pytorch_model.safetensors"
V = {"prediction_type": "v_prediction", "beta_schedule": "squaredcos_cap_v2"}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VITRAIL_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tiny_models.stable_diffusion(tmp_path_factory.mktemp("teacher"), text="bert", **V)
    return contract.load(str(folder), device="cpu")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, teacher):
    """The folder of a student whose guidance has an effect, as a training exports it."""
    student = few_steps.student_of(teacher)
    torch.manual_seed(0)
    torch.nn.init.normal_(student.pipe.unet.time_embedding.cond_proj.weight, std=0.5)
    folder = tmp_path_factory.mktemp("student")
    contract.save_folder(folder, student.pipe, **student.extra)
    return folder


@pytest.fixture(scope="module")
def student(trained):
    return contract.load(str(trained), device="cpu")


def drawn(model, prompt=PROMPT, seeds=(3,), **settings) -> np.ndarray:
    """The pictures, int (B, R, R, 3)."""
    *_, last = model.generate(prompt, seeds, **settings)
    return np.stack([np.asarray(picture) for picture in model.decode(last.latents)]).astype(int)


# ---- the lesson ------------------------------------------------------------------------------------------------------


def test_times_draw_near_to_each_other():
    t = torch.tensor([1, 2, 500, 999])
    assert few_steps.nearer(t, 0.0).tolist() == [0, 1, 250, 499], "half of t"
    assert few_steps.nearer(t, 1.0).tolist() == [0, 1, 437, 874], "seven eighths"
    assert few_steps.nearer(t, 7.0).tolist() == few_steps.nearer(t, 1.0).tolist()


def test_the_loss_by_hand():
    difference = torch.zeros(2, 4, 5, 5)
    difference[1, 0, 0, :2] = torch.tensor([3.0, 4.0])
    c = 0.00054 * 10
    assert few_steps.pseudo_huber(difference).tolist() == pytest.approx([0.0, (25 + c**2) ** 0.5 - c])


class Pointed(torch.nn.Module):
    """A U-Net, by its answers, of data that are one latent: v of the x_0 it says, whatever it is shown."""

    def __init__(self, like, x0: torch.Tensor, bars: torch.Tensor):
        super().__init__()
        self.config, self.bars = like.config, bars
        self.x0 = torch.nn.Parameter(x0)

    device, dtype = torch.device("cpu"), torch.float32

    def forward(self, x, t, encoder_hidden_states, **told):
        a = self.bars[t][:, None, None, None]
        answer = (a.sqrt() * x - self.x0) / (1 - a).sqrt()  # of which predict_x0 makes x0
        return type("Output", (), {"sample": answer})()


def lesson_of(teacher, says: float, believes: float, batches=100):
    """The lesson where the teacher says of everything that it is `says`, and its learner believes it is `believes`."""
    master, pupil = (copy.copy(one) for one in (teacher, few_steps.student_of(teacher)))
    bars = master.pipe.scheduler.alphas_cumprod
    for one, value in ((master, says), (pupil, believes)):
        one.pipe = copy.copy(one.pipe)
        one.pipe.unet = Pointed(one.pipe.unet, torch.full(teacher.latent_shape, value), bars)
    learner = Student(pupil.pipe.unet)
    return learner, few_steps.distillation(master, pupil, learner, batches)


def batch_of(teacher, t) -> tuple:
    draw, t = torch.Generator().manual_seed(0), torch.tensor(t)
    shape = len(t), *teacher.latent_shape
    clean, noise = torch.randn(shape, generator=draw), torch.randn(shape, generator=draw)
    return clean, noise, t, torch.full((len(t),), 3.0), teacher.text_states([PROMPT]).expand(len(t), -1, -1)


def test_who_says_what_the_teacher_says_has_nothing_to_learn(teacher):
    learner, lesson = lesson_of(teacher, says=0.5, believes=0.5)
    assert lesson(learner.train(), *batch_of(teacher, [1, 40, 500, 999])).item() == pytest.approx(0, abs=2e-3)


def test_at_the_end_of_the_path_the_teacher_is_believed_and_elsewhere_oneself(teacher):
    """Of t = 1 half is 0, the picture: there the error is the whole difference. Else the target is the learner's."""
    learner, lesson = lesson_of(teacher, says=0.5, believes=0.0)
    size = teacher.latent_shape[0] * teacher.latent_shape[1] * teacher.latent_shape[2]
    c = 0.00054 * size**0.5
    ends = lesson(learner.eval(), *batch_of(teacher, [1, 1]))
    assert ends.item() == pytest.approx(0.5 * size**0.5 - c, rel=0.02)
    assert lesson(learner, *batch_of(teacher, [500, 999])).item() == pytest.approx(0, abs=2e-3), "it agrees with itself"
    ends.backward()
    assert learner.unet.x0.grad.abs().min() > 0


def test_gradients_go_into_the_learner_alone_and_its_batches_are_counted(teacher):
    pupil = few_steps.student_of(teacher)
    learner = Student(pupil.pipe.unet)
    lesson = few_steps.distillation(teacher, pupil, learner, 100)
    weight = pupil.pipe.unet.time_embedding.cond_proj.weight
    assert not weight.any()
    lesson(learner.train(), *batch_of(teacher, [300, 999])).backward()
    assert weight.grad.abs().max() > 0 and int(learner.seen) == 1
    assert all(p.grad is None and not p.requires_grad for p in teacher.pipe.unet.parameters())
    lesson(learner.eval(), *batch_of(teacher, [300, 999]))
    assert int(learner.seen) == 1, "what is only measured isn't counted"


def test_a_student_begins_as_its_teacher(teacher):
    """Its one step gives the x_0 that the teacher guesses of pure noise, told the prompt alone."""
    pupil = few_steps.student_of(teacher)
    first = next(iter(teacher.generate(PROMPT, [3], guidance_scale=1, num_inference_steps=10)))
    *_, last = pupil.generate(PROMPT, [3], guidance_scale=5, num_inference_steps=1)
    assert torch.allclose(last.latents, first.x0, atol=1e-3)
    path = few_steps.Path(teacher, [PROMPT, "a house"])
    assert path.distance(pupil) > 0.01
    assert path.distance(teacher) != path.distance(pupil)


def test_bf16_takes_dropped_starts(teacher):
    """torch.cat refuses halves beside bf16 on a CPU, so states are in fp32 before anything is done to them."""
    states = teacher.text_states([PROMPT, "a house"]).half()
    batch = {"mean": torch.zeros(2, *teacher.latent_shape), "std": torch.ones(2, *teacher.latent_shape),
             "posterior": torch.zeros(2, *teacher.latent_shape), "noise": torch.zeros(2, *teacher.latent_shape),
             "states": states, "start_dropped": torch.tensor([True, False])}  # fmt: skip
    with torch.autocast("cpu", torch.bfloat16):
        _, told = latents.conditions(batch, teacher, None)
    assert told.dtype == torch.float32 and torch.equal(told[1], states[1].float())
    assert not torch.equal(told[0, 0], states[0, 0].float()) and torch.equal(told[0, 1:], states[0, 1:].float())


# ---- the model that comes of it --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("steps", "times"), [(1, [999]), (2, [999, 499]), (4, [999, 749, 499, 249])])
def test_the_stock_pipeline_draws_the_same(trained, student, steps, times):
    pipe = DiffusionPipeline.from_pretrained(trained)
    pipe.set_progress_bar_config(disable=True)
    assert isinstance(pipe.scheduler, LCMScheduler)
    for scale in (1.0, 3.0, 8.0):
        draw = torch.Generator().manual_seed(3)
        theirs = pipe(PROMPT, num_inference_steps=steps, guidance_scale=scale, generator=draw).images[0]
        assert pipe.scheduler.timesteps.tolist() == times
        mine = drawn(student, num_inference_steps=steps, guidance_scale=scale)[0]
        assert np.abs(mine - np.asarray(theirs).astype(int)).max() <= 1, scale


def test_the_stock_image_to_image_is_the_same(trained, student):
    pipe = StableDiffusionImg2ImgPipeline.from_pretrained(trained)
    pipe.set_progress_bar_config(disable=True)
    start = Image.fromarray(np.linspace(0, 255, 32 * 32 * 3).reshape(32, 32, 3).astype(np.uint8))
    for strength in (0.5, 1.0):
        draw = [torch.Generator().manual_seed(3)]
        theirs = pipe(PROMPT, start, strength, num_inference_steps=4, guidance_scale=3, generator=draw).images[0]
        mine = drawn(student, image=start, strength=strength, num_inference_steps=4, guidance_scale=3)[0]
        assert np.abs(mine - np.asarray(theirs).astype(int)).max() <= 1, strength


def test_it_reads_its_guidance_and_a_picture_is_that_of_its_seed(student):
    weak, strong = (drawn(student, guidance_scale=scale) for scale in (1.0, 6.0))
    assert (weak != strong).any()
    together = drawn(student, seeds=[3, 4])
    for picture, seed in zip(together, (3, 4), strict=True):
        assert np.abs(picture - drawn(student, seeds=[seed])[0]).max() <= 1
    asked = []
    hook = student.pipe.unet.register_forward_pre_hook(lambda unet, arguments: asked.append(len(arguments[0])))
    drawn(student, guidance_scale=6.0)
    hook.remove()
    assert asked == [1, 1, 1, 1], "one picture a step, and no second one without the prompt"
    receipt = student.receipt(PROMPT, 3, picture=Image.fromarray(drawn(student)[0].astype(np.uint8)))
    assert (receipt["sampler"], receipt["num_inference_steps"], receipt["guidance_scale"]) == ("lcm", 4, 7.5)
    assert "LCM" in contract.parameters_text(receipt)
    assert contract.read_parameters(contract.parameters_text(receipt))["sampler"] == "lcm"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"num_inference_steps": 9}, "not an integer from 1 to 8"),
        ({"guidance_scale": 8.5}, "not a number from 1 to 8"),
        ({"sampler": "dpm++"}, "choose one of lcm"),
    ],
)
def test_what_it_does_not_take_is_said(student, settings, said):
    with pytest.raises(ValueError, match=said):
        student.generate(PROMPT, [3], **settings)


def test_what_a_teacher_does_not_take_is_said(teacher):
    with pytest.raises(ValueError, match="choose one of dpm"):
        teacher.generate(PROMPT, [3], sampler="lcm")


def test_a_foreign_folder_of_few_steps_opens(trained, tmp_path):
    """Without our file: the sampler is the one that it was saved with."""
    shutil.copytree(trained, tmp_path / "x")
    (tmp_path / "x" / "preprocessor_config.json").unlink()
    model = contract.load(str(tmp_path / "x"), device="cpu")
    assert (model.default_sampler, model.default_steps, model.max_guidance) == ("lcm", 8, 30.0)


# ---- the script ------------------------------------------------------------------------------------------------------


def flags(teacher, folder) -> list[str]:
    return ["--preset", "few-steps", "--cpu", "--dataset_name", "emoji-sample", "--groups", "--resolution", "32",
            "--pretrained_model_name_or_path", str(teacher), "--output_dir", str(folder), "--train_batch_size", "4",
            "--max_train_steps", "3", "--lr_warmup_steps", "1", "--checkpointing_steps", "1", "--validation_steps", "3",
            "--validation_prompts", "a red apple"]  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tiny_models.stable_diffusion(tmp_path_factory.mktemp("home"), text="bert", **V)


def test_trained_exported_and_resumed_to_the_bit(home, tmp_path):
    script.main(flags(home, tmp_path / "whole"))
    model = contract.load(str(tmp_path / "whole" / "export"), device="cpu")
    assert (model.samplers, model.default_steps, model.max_guidance, model.reads_guidance) == (("lcm",), 4, 8.0, True)
    lines = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "validation/distance" in line] == [0, 3]
    card = (tmp_path / "whole" / "export" / "README.md").read_text()
    assert "num_inference_steps=4" in card and "few steps" in card
    shutil.copytree(tmp_path / "whole", tmp_path / "half")
    for later in ("checkpoint-3", "export"):  # as if it had been killed before its third step
        shutil.rmtree(tmp_path / "half" / later)
    script.main([*flags(home, tmp_path / "half"), "--resume_from_checkpoint", "latest"])
    whole, half = (load_file(tmp_path / run / "export" / UNET) for run in ("whole", "half"))
    assert all(torch.equal(value, half[name]) for name, value in whole.items()) and set(whole) == set(half)
    seen = [checkpoint.find(tmp_path / run, "latest").tensors("model")["seen"].item() for run in ("whole", "half")]
    assert seen == [3, 3], "so the times are as near to each other"


def test_a_student_of_a_student_is_refused(trained):
    cfg = dataclasses.replace(
        script.PRESETS["few-steps"], dataset_name="emoji-sample", groups=(), resolution=32, cpu=True,
        pretrained_model_name_or_path=str(trained),
    )  # fmt: skip
    with pytest.raises(SystemExit, match="reads its guidance already"):
        script.task_of(cfg)


def test_a_student_needs_a_teacher():
    with pytest.raises(ValueError, match="the teacher"):
        dataclasses.replace(script.PRESETS["few-steps"], pretrained_model_name_or_path=None)
