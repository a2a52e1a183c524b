"""The families that the page shows, in its order: a new one is one more row, and six functions or fewer.

Letters: see `family`; N symbols of a picture.
"""

import numpy as np
import torch
from PIL import Image

from apps.families.family import ANY, Family, Frame, Frames, Seen
from hub_models import autoencoder, ddpm, drawing, energy, gan, samplers, tokens
from hub_models.energy import picture_energy
from hub_models.gan import slerp
from hub_models.pictures import frame, to_uint8

SAMPLER, STEPS = "dpm++", 20  # of the diffusion model: as the page `ddpm` has it
OWN = 16  # of its own pictures, beside which a GAN's discriminator is asked about one


def _once(x: torch.Tensor) -> Frame:
    """The only frame of what comes in one pass, x (B, 3, R, R)."""
    return Frame(0, 1, lambda: to_uint8(x))


def _stacked(pictures: list[Image.Image]) -> Frame:
    return Frame(0, 1, lambda: np.stack([np.asarray(picture) for picture in pictures]))


def _sealed(model, label: str, seeds, **more) -> dict:
    """The receipt of a model whose contract writes none."""
    fields = {"model": model.name, "weights_sha256": model.weights_sha256, "labels": [label] * len(seeds)}
    fields |= {"seeds": [str(seed) for seed in seeds], "size": [model.resolution_px] * 2}
    return drawing.sealed(fields | more, model.device)


def _asked(label: str) -> str | None:
    return None if label == ANY else label


def _apart(model, picture: Image.Image, made: np.ndarray) -> str:
    """How far pixels (R, R, 3) are from those that the model was given of a picture."""
    given = np.asarray(frame(picture, model.resolution_px, model.ground)).astype(float)
    return f"{np.sqrt(np.square(given - made).mean()):.1f} of 255 (RMS)"


# ---- variational autoencoder -----------------------------------------------------------------------------------------


def _vae_draw(model, label, seeds) -> Frames:
    yield _once(model.sample([label] * len(seeds), seeds))


def _vae_look(model, picture, label, seed):
    mean, std = model.encode([picture])  # (1, C, h, w)
    again = to_uint8(model.decode(mean))[0]
    said = f"Encodes it into {mean.numel()} numbers, and decodes them again."
    sure = f"{(std < 0.5).sum().item()} of {mean.numel()}"  # of a prior with deviation 1
    facts = {"Off by": _apart(model, picture, again), "Numbers it is sure of": sure}
    ways = model.space.directions if model.space else {}
    moved = [(name, to_uint8(model.moved(picture, name, amounts=[1]))[0]) for name in ways]
    yield Seen(said, [("decoded again", again), *moved], facts)


def _vae_between_pictures(model, first, second, steps) -> Frames:
    yield _once(model.walk(first, second, steps))


def _vae_between_seeds(model, label, seed, other, steps) -> Frames:
    ends = [Image.fromarray(pixels) for pixels in to_uint8(model.sample([label] * 2, [seed, other]))]
    yield _once(model.walk(*ends, steps))


VAE = Family(
    stem="autoencoder", title="VAE", load=autoencoder.load,
    labels=lambda model: model.space.label_names if model.space else [],
    passes=lambda model: 1,
    how=lambda model: "Decoded in one pass, from a vector that was drawn from the Gaussian of the class.",
    draw=_vae_draw,
    receipt=lambda model, label, seeds, done: _sealed(model, label, seeds, temperature=autoencoder.TEMPERATURE),
    look=_vae_look, between_seeds=_vae_between_seeds, between_pictures=_vae_between_pictures,
    space="Through the latents that it encodes pictures into: every point of the arc is a picture, if a soft one.",
    likelihood="a bound", bits="validation/bits_per_dim", encoder="to one vector",
)  # fmt: skip


# ---- generative adversarial network ----------------------------------------------------------------------------------


def _gan_draw(model, label, seeds) -> Frames:
    yield _stacked(model.draw([label] * len(seeds), seeds))


def _gan_look(model, picture, label, seed):
    labels = model.label_names if label == ANY else [label]
    told = model.tell([picture] * len(labels), labels)
    best = int(told.argmax())
    own = model.tell(model.draw([labels[best]] * OWN, range(OWN)), [labels[best]] * OWN)
    said = "Has no encoder, so it can't draw yours again; its discriminator says how real it looks."
    beaten = f"{(own < told[best]).sum()} of {OWN} of its own"
    yield Seen(said, facts={"Most real as": labels[best], "Logit": f"{told[best]:.2f}", "More real than": beaten})


def _gan_between(model, label, seed, other, steps) -> Frames:
    yield _stacked(model.walk(seed, other, label, steps))


GAN = Family(
    stem="gan", title="GAN", load=gan.load, labels=lambda model: model.label_names,
    passes=lambda model: 1,
    how=lambda model: "Made in one pass by a generator, which has learned it against a discriminator.",
    draw=_gan_draw, receipt=lambda model, label, seeds, done: model.receipt([label] * len(seeds), seeds),
    look=_gan_look, between_seeds=_gan_between,
    space="Along the great circle between two draws of its noise: each point is a picture of the class. "
          "It can't come from a picture of yours, having no encoder.",
    likelihood="none", encoder="",
)  # fmt: skip


# ---- symbol after symbol ---------------------------------------------------------------------------------------------


def _tokens_draw(model, label, seeds) -> Frames:
    for draft in model.sample([label] * len(seeds), seeds):
        yield Frame(draft.index, draft.total, lambda draft=draft: model.pictures(draft.symbols))


def _tokens_receipt(model, label, seeds, done) -> dict:
    how = {"temperature": 1.0, "top_k": None, "guidance_scale": model.default_guidance}
    stopped = {"steps_done": done} if done < model.num_symbols else {}
    return model.receipt([label] * len(seeds), seeds, **how, **stopped)


def _tokens_look(model, picture, label, seed):
    rows, facts = model.alphabet.grid[0], {}
    bits = model.bits_per_dimension([picture], [_asked(label)]).item()
    facts["Bits per dimension"] = f"{bits:.2f}"
    facts["Symbols"] = f"{model.num_symbols} out of {model.alphabet.size}"
    for draft in model.complete(picture, [_asked(label)], [seed], keep_rows=rows // 2):
        said = "Reads the upper half, and writes the lower one symbol by symbol. It knows how likely all of it is."
        yield Seen(said, [("lower half completed", model.pictures(draft.symbols)[0])], facts)


TOKENS = Family(
    stem="tokens", title="Tokens", load=tokens.load, labels=lambda model: model.label_names,
    passes=lambda model: model.num_symbols,
    how=lambda model: f"{model.num_symbols} symbols, one after another, each drawn given all before it.",
    draw=_tokens_draw, receipt=_tokens_receipt, look=_tokens_look,
    space="Symbols are whole things: between one and the next there is nothing to walk through.",
    likelihood="exact", bits="validation/bits_per_dimension", encoder="to symbols",
)  # fmt: skip


# ---- energy ----------------------------------------------------------------------------------------------------------


def _energy_draw(model, label, seeds) -> Frames:
    for state in model.sample([label] * len(seeds), seeds):
        yield Frame(state.index, state.total, lambda state=state: to_uint8(state.x))


def _energy_receipt(model, label, seeds, done) -> dict:
    stopped = {"steps_done": done} if done < model.steps else {}
    return _sealed(model, label, seeds, num_inference_steps=model.steps, **stopped)


def _energy_look(model, picture, label, seed):
    outputs = model.outputs([picture])  # (1, K)
    best, share = outputs.argmax(1).item(), outputs.softmax(1).max().item()
    facts = {"Energy": f"{picture_energy(outputs).item():.2f}"}
    if model.energy_quantiles is not None:
        facts["More unusual than"] = f"{model.anomaly([picture]).share_below[0]:.0%} of training pictures"
    facts["Class"] = f"{model.label_names[best]}, {share:.0%}"
    towards = model.label_names[best] if label == ANY else label
    for state in model.sample([towards], [seed], starts=[picture]):
        said = f"Says how unusual it is. Then it goes {state.total} steps down from there, towards “{towards}”."
        yield Seen(said, [(f"after {state.index + 1} steps", to_uint8(state.x)[0])], facts)


ENERGY = Family(
    stem="energy", title="Energy", load=energy.load, labels=lambda model: model.label_names,
    passes=lambda model: model.steps,
    how=lambda model: f"{model.steps} steps of Langevin dynamics down the energy, out of noise.",
    draw=_energy_draw, receipt=_energy_receipt, look=_energy_look,
    space="It has no space but that of pixels: halfway between two pictures there lies a blend of both, "
          "and a hill of energy.",
    likelihood="up to a constant", encoder="",
)  # fmt: skip


# ---- diffusion -------------------------------------------------------------------------------------------------------


def _steps(model) -> int:
    return min(STEPS, model.num_train_timesteps)


def _how(model) -> dict:
    guidance = model.default_guidance if model.null_label is not None else 1.0
    return {"num_inference_steps": _steps(model), "guidance_scale": guidance, "sampler": SAMPLER}


def _ddpm_draw(model, label, seeds) -> Frames:
    for step in model.generate([label] * len(seeds), seeds, **_how(model)):
        yield Frame(step.index, step.total, lambda step=step: to_uint8(step.x_t))


def _ddpm_receipt(model, label, seeds, done) -> dict:
    stopped = {"steps_done": done} if done < _steps(model) else {}
    return model.receipt([label] * len(seeds), seeds, **_how(model), **stopped)


def _ddpm_look(model, picture, label, seed):
    done = _steps(model) // 2
    level = samplers.levels(model.scheduler, SAMPLER, _steps(model))[done]
    x_0, noise = model.to_tensor(picture).to(model.device), model.initial_noise([seed])
    start = samplers.add_noise(x_0, noise, level.a.to(model.device))  # (1, 3, R, R)
    noisy = to_uint8(start)[0]
    for step in model.generate([_asked(label)], [seed], start=start, done=done, **_how(model)):
        now = to_uint8(step.x_t)[0]
        said = f"Puts the noise of {step.total - done} of {step.total} steps on it, and takes that off again."
        facts = {"Off by": _apart(model, picture, now), "Noise at": f"t = {level.timestep}"}
        yield Seen(said, [("with noise", noisy), ("denoised", now)], facts)


def _ddpm_between(model, label, seed, other, steps) -> Frames:
    first, second = model.initial_noise([seed, other]).flatten(1)  # (D,) each
    shares = torch.linspace(0, 1, steps, device=model.device)[:, None]
    start = slerp(first, second, shares).view(steps, *model.shape)
    for step in model.generate([label] * steps, [seed] * steps, start=start, **_how(model)):
        yield Frame(step.index, step.total, lambda step=step: to_uint8(step.x_t))


DDPM = Family(
    stem="ddpm", title="Diffusion", load=ddpm.load, labels=lambda model: model.label_names,
    passes=_steps,
    how=lambda model: f"{_steps(model)} steps of denoising, out of nothing but noise.",
    draw=_ddpm_draw, receipt=_ddpm_receipt, look=_ddpm_look, between_seeds=_ddpm_between,
    space="Along the great circle between the two noises that it starts from. Near ones end in like pictures, mostly.",
    likelihood="a bound", encoder="",
)  # fmt: skip

FAMILIES = {family.stem: family for family in (VAE, GAN, TOKENS, ENERGY, DDPM)}
