"""What the page says of orders and receipts, and its sheet, as HTML. Letters: B pictures, h × w latent pixels."""

import html
import re
from collections.abc import Mapping

from PIL import Image

from apps.kit import parts, values
from apps.kit.drawing_page import columns
from apps.kit.pictures import data_url, png_bytes
from apps.text_to_image import desk
from apps.text_to_image.desk import MAX_CHARACTERS, SAMPLER_NAMES, Found, Order
from hub_models import text_to_image
from hub_models.drawing import is_number
from hub_models.text_to_image import Step, TextToImage, Verdict

FIELDS = {
    "picture": "the pixels",
    "weights_sha256": "weights",
    "num_inference_steps": "steps",
    "guidance_scale": "guidance",
    "image_sha256": "start picture",
    "picture_sha256": "the picture's hash",
    "steps_done": "steps done",
    "negative_prompt": "negative prompt",
}
VERDICTS = {
    "identical": "Drawn again, every pixel came out the same.",
    "within 1/255": "Drawn again, no pixel is off by more than 1 of 255: the same picture, rounded otherwise.",
    "different": "Drawn again, another picture comes out.",
}


def verdict_html(verdict: Verdict, found: Found) -> str:
    """What verifying showed, and each field that does not fit: altered by hand, or other than what is here."""
    altered = text_to_image.altered_fields(found.receipt)
    edited = [FIELDS.get(name, name) for name in verdict.fields if name in altered or name == "picture"]
    others = [FIELDS.get(name, name) for name in verdict.fields if name not in altered and name != "picture"]
    lines = [VERDICTS[verdict.state]]
    if edited:
        lines.append(f"Altered since it was drawn: {', '.join(edited)}.")
    if others:
        lines.append(f"Not as it was drawn: {', '.join(others)}.")
    tone = "good" if verdict.state != "different" and not verdict.fields else "bad"
    return card(verdict.state.capitalize(), lines, tone) + receipt_html(found)


def card(title: str, lines: list[str], tone: str = "") -> str:
    body = "".join(f"<p>{html.escape(line)}</p>" for line in lines)
    return f'<div class="verdict {tone}" role="status"><strong>{html.escape(title)}</strong>{body}</div>'


def restored_html(found: Found) -> str:
    """That the settings are back on the form, or what of them cannot be, over the receipt."""
    title = "Settings restored" if found.here else "Settings restored, without their weights"
    return card(title, found.problems or ["They stand in the form above: Draw draws it again."]) + receipt_html(found)


def receipt_html(found: Found) -> str:
    receipt = found.receipt
    rows = {
        "Prompt": receipt.get("prompt", "") or "(none)",
        "Negative prompt": receipt.get("negative_prompt", ""),
        "Seed": receipt.get("seed", ""),
        "Steps": receipt.get("num_inference_steps", ""),
        "Stopped after": receipt.get("steps_done", ""),
        "Guidance": receipt.get("guidance_scale", ""),
        "Sampler": next((shown for shown, name in SAMPLER_NAMES.items() if name == receipt.get("sampler")), ""),
        "Strength": receipt.get("strength", ""),
        "Fork": fork_said(receipt),
        "Model": receipt.get("model", ""),
        "Weights": str(receipt.get("weights_sha256") or receipt.get("model_hash") or "")[:12],
        "Device": receipt.get("device", ""),
    }
    return parts.facts({name: str(value)[:MAX_CHARACTERS] for name, value in rows.items() if value not in ("", None)})


def fork_said(receipt: Mapping) -> str:
    """On where a drawing forked, and into what; nothing of one that didn't, or of a fork that is no such thing."""
    fork = receipt.get("fork")
    if not isinstance(fork, Mapping):
        return ""
    shown = {name: shown for shown, name in SAMPLER_NAMES.items()}
    changes = [
        "no prompt" if fork.get("prompt") == "" else f"“{fork['prompt']}”" if fork.get("prompt") else "",
        f"guidance {scale:g}" if is_number(scale := fork.get("guidance_scale")) else "",
        shown.get(str(fork.get("sampler")), ""),
    ]
    return f"after {fork.get('at')} steps: {', '.join(filter(None, changes))}"


def preview_html(step: Step, seeds: list[int]) -> str:
    """The sheet of a drawing under way, from its latents' colours (B, h, w, 3), which the browser draws large."""
    tiles = []
    for k, seed in enumerate(seeds):
        picture = '<div class="pending"></div>'
        if step.preview is not None:
            source = data_url(png_bytes(Image.fromarray(step.preview[k])))
            picture = f'<img class="rough" src="{source}" alt="Preview of picture {k + 1}">'
        tiles.append(f'<figure class="tile">{picture}<figcaption>seed {seed}</figcaption></figure>')
    return f'<div class="sheet cols-{columns(len(tiles))}">{"".join(tiles)}</div>'


def sheet_html(pngs: list[bytes], order: Order, *, start: bool = True) -> str:
    """The sheet of finished pictures. Each is the PNG itself, receipt and all, however it is saved from the page.

    start: whether a drawing can start from them.
    """
    tiles = []
    for k, (png, seed) in enumerate(zip(pngs, order.seeds, strict=True)):
        alt = html.escape(f"Picture {k + 1}: {order.prompt or 'no prompt'}, seed {seed}")
        tiles.append(
            f'<figure class="tile"><img src="{data_url(png)}" alt="{alt}"><figcaption><span>seed {seed}</span>'
            f'<button type="button" data-save="{html.escape(file_name(order.prompt, seed))}">Download PNG</button>'
            + f'<button type="button" data-start="{k}">Start from it</button>' * start
            + "</figcaption></figure>"
        )
    return f'<div class="sheet cols-{columns(len(tiles))}">{"".join(tiles)}</div>'


def file_name(prompt: str, seed: int) -> str:
    words = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:40].strip("-")
    return f"{words or 'picture'}-{seed}.png"


def sent_html(model: TextToImage, prompt="", style=desk.ANY_STYLE, negative="") -> str:
    """What will be sent of the form as it stands, with what the model leaves out struck through, and the notices."""
    try:
        style = values.choice(style, "Style", desk.style_choices(model))
        prompt = desk.check_text(desk.with_style(desk.check_text(prompt, "Prompt"), style), "Prompt")
        negative = desk.check_text(negative, "Negative prompt")
    except values.InputError as error:
        return f'<div class="sent"><p class="notice" role="status">{error.message}</p></div>'
    cut = model.was_cut(prompt) or ""
    kept = html.escape(prompt.removesuffix(cut)) + (f"<del>{html.escape(cut)}</del>" if cut else "")
    lines = f"<p>Will be sent: <q>{kept}</q></p>" if prompt else ""
    lines += "".join(
        f'<p class="notice" role="status">{html.escape(said)}</p>' for said in desk.notices(model, prompt, negative)
    )
    return f'<div class="sent">{lines}</div>'
