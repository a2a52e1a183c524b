"""The sheet of 40 prompts: `python -m training.samples [--model emoji]` draws docs/samples.png.

The prompts stand in docs/samples.txt and were fixed before any of them was drawn; picture i has seed i, and nothing is
chosen or drawn twice. The PNG carries the receipt of each.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from hub_models import text_to_image
from training.data.split import ROOT

COLUMNS, MARGIN_PX, CAPTION_PX = 8, 8, 30


def prompts() -> list[str]:
    """The lines of docs/samples.txt that are no comments."""
    lines = (ROOT / "docs" / "samples.txt").read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def sheet(pictures: Sequence[Image.Image], captions: Sequence[str], columns: int = COLUMNS) -> Image.Image:
    """The pictures in rows of `columns`, each with its prompt below."""
    side = max(128, pictures[0].width)
    width, height = side + MARGIN_PX, side + CAPTION_PX + MARGIN_PX
    rows = -(-len(pictures) // columns)
    canvas = Image.new("RGB", (columns * width + MARGIN_PX, rows * height + MARGIN_PX), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(11)
    for number, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        x, y = MARGIN_PX + number % columns * width, MARGIN_PX + number // columns * height
        canvas.paste(picture, (x, y))
        pen.multiline_text((x, y + side + 2), _wrapped(caption, font, side), "black", font, spacing=1)
    return canvas


def _wrapped(text: str, font, width_px: int) -> str:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width_px or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return "\n".join(lines[:2])


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="training.samples", description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="emoji", help="a bundled variant, a folder, or org/repo[@revision]")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "samples.png")
    parser.add_argument("--steps", type=int, help="default: the model's own")
    parser.add_argument("--guidance", type=float, help="default: the model's own")
    parser.add_argument("--sampler", choices=text_to_image.SAMPLERS, help="default: the model's own")
    args = parser.parse_args(argv)
    model, asked, pictures = text_to_image.load(args.model), prompts(), []
    settings = {"num_inference_steps": args.steps, "guidance_scale": args.guidance, "sampler": args.sampler}
    for at in range(0, len(asked), 8):
        part = asked[at : at + 8]
        *_, last = model.generate(part, range(at, at + len(part)), **settings)
        pictures += model.decode(last.latents)
    receipts = [model.receipt(prompt, seed, **settings) for seed, prompt in enumerate(asked)]
    info = PngImagePlugin.PngInfo()
    info.add_itxt("vitrail-samples", json.dumps(receipts))
    sheet(pictures, asked).save(args.output, optimize=True, pnginfo=info)
    one = receipts[0]
    print(
        f"{args.output}: {len(asked)} prompts, {one['num_inference_steps']} steps of {one['sampler']}, "
        f"guidance {one['guidance_scale']:g}, weights {model.weights_sha256[:12]}"
    )


if __name__ == "__main__":
    main()
