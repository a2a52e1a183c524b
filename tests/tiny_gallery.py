"""The gallery over tiny random models, and what strangers send to it: calls from several addresses of this machine."""

import contextlib
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import tiny_models
import torch
from conftest import free_port
from diffusers import DDPMScheduler
from families import FAMILIES

from apps import gallery
from apps.kit import launch
from hub_models import ddpm, text_to_image
from hub_models.store import CheckpointError

# The inputs of the endpoints that draw, as curl sends them; the fourth from the left, or the third, is the seed.
T2I = {"prompt": "a red apple", "negative": "", "count": 1, "seed": "3", "steps": 2, "guidance": 1.0, "sampler": "DDIM",
       "picture": None, "strength": 0.6, "model": "tiny"}  # fmt: skip
DDPM = {"labels": ["face"], "count": 1, "seed": 3, "steps": 2, "guidance": 1.0, "sampler": "DDIM", "model": "tiny",
        "guide_scale": 0}  # fmt: skip


def tiny_ddpm() -> ddpm.DDPM:
    torch.manual_seed(0)
    scheduler = DDPMScheduler(num_train_timesteps=300, prediction_type="v_prediction", timestep_spacing="trailing")
    return ddpm.DDPM(
        tiny_models.unet(classes=4),
        scheduler,
        label_names=("face", "food", "flag"),
        null_label=3,
        guidance_scale=2.0,
        name="tiny",
        weights_sha256="0" * 64,
    )


def tiny_families(folder: Path) -> dict:
    """A tiny model of each family of the page `families`, under its name there."""
    labels = tiny_ddpm().label_names
    tiny_models.gan_folder(folder / "gan", labels, "dcgan")
    tiny_models.energy_folder(folder / "energy", labels)
    return {
        "autoencoder=tiny": tiny_models.vector_autoencoder(labels),
        "gan=tiny": FAMILIES["gan"].load(folder / "gan"),
        "tokens=tiny": tiny_models.tokens(label_names=labels),
        "energy=tiny": FAMILIES["energy"].load(folder / "energy"),
        "ddpm=tiny": tiny_ddpm(),
    }


def tiny_translator(folder: Path) -> dict:
    """A tiny model of the page's other styles, under its name there."""
    tiny_models.translation_folder(folder / "translation", ("noto", "<b>"))
    return {"translation=tiny": FAMILIES["translation"].load(folder / "translation")}


def models(folder: Path) -> dict[str, dict]:
    """What `gallery.build` takes: a tiny model for every page but the classifier's."""
    made = {
        "text_to_image": text_to_image.load(
            str(tiny_models.stable_diffusion(folder / "t2i", text="bert", extra={"styles": ["noto"]})), device="cpu"
        ),
        "ddpm": tiny_ddpm(),
    }
    for stem in {"clip", *(demo.PAGE.stem for demo in gallery.DEMOS)} - {"classifier", "families", *made}:
        FAMILIES[stem].save(folder / stem)
        made[stem] = FAMILIES[stem].load(folder / stem)
    ranker = made.pop("clip")
    named = {stem: {"tiny": model} for stem, model in made.items()}
    named["captioning"]["clip=tiny"] = ranker
    named["families"] = tiny_families(folder) | tiny_translator(folder)
    return named | {"classifier": {"vit": CheckpointError("left out")}}


@contextlib.contextmanager
def running(named: dict[str, dict], *, mcp: bool = False) -> Iterator[str]:
    """The address of the gallery over these models."""
    app = gallery.build(named)
    try:
        yield launch.launch(app, port=free_port(), block=False, mcp=mcp).rstrip("/")
    finally:
        app.close(verbose=False)


def visitor(last: int = 1) -> httpx.Client:
    """Somebody at the address 127.0.0.<last>."""
    transport = httpx.HTTPTransport(local_address=f"127.0.0.{last}")
    return httpx.Client(transport=transport, timeout=60)


def ask(who: httpx.Client, address: str, endpoint: str, *data, **more) -> httpx.Response:
    """The first step of a call: its answer names the event."""
    return who.post(f"{address}/gradio_api/call/{endpoint}", json={"data": data} | more)


def answer(who: httpx.Client, address: str, endpoint: str, *data) -> tuple[str, object]:
    """The last event of a whole call, ("complete", values) or ("error", what it says)."""
    asked = ask(who, address, endpoint, *data)
    if asked.status_code != 200:
        return "error", asked.json()
    reply = who.get(f"{address}/gradio_api/call/{endpoint}/{asked.json()['event_id']}").text
    event, value = re.findall(r"event: (\w+)\ndata: (.*)", reply)[-1]
    return event, json.loads(value)


def settled(count, seconds: float = 15) -> int:
    """What `count()` gives once it has not changed for a second and a half."""
    until, last, since = time.monotonic() + seconds, count(), time.monotonic()
    while time.monotonic() < until and time.monotonic() - since < 1.5:
        time.sleep(0.1)
        if (now := count()) != last:
            last, since = now, time.monotonic()
    return last
