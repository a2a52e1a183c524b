"""All demos as pages of one app, behind a home page with a card for each.

python -m apps.gallery [--port 7860] [--mcp] [--model ddpm=FOLDER --model classifier=org/repo]
"""

import argparse
import base64
import html
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import gradio as gr

from apps import captioning, classifier, ddpm, segmentation, text_to_image, ui
from apps.kit import hosts

EXAMPLES = Path(__file__).parent / "examples"
CARD_PICTURES = 6


@dataclass(frozen=True)
class Demo:
    """One page: its module (build, load_models), the models it opens with, and the words on its card."""

    module: ModuleType
    models: tuple[str, ...]
    title: str
    text: str

    @property
    def stem(self) -> str:
        return self.module.__name__.rpartition(".")[2]


DEMOS = (
    Demo(
        text_to_image,
        ("emoji",),
        "Write, and watch it drawn",
        "A latent diffusion model reads your words and draws them. Every PNG knows how it was made.",
    ),
    Demo(
        captioning,
        tuple(captioning.MODELS),
        "Put it into words",
        "A captioner writes what it sees. Press a word to see where it looked, or let CLIP judge lines of your own.",
    ),
    Demo(
        segmentation,
        tuple(segmentation.MODELS),
        "What is where?",
        "Networks for drawings and for photographs name every pixel and say how sure they are. Blank what they doubt.",
    ),
    Demo(
        ddpm,
        ("emoji-32",),
        "Draw out of noise",
        "A diffusion model turns noise into new emoji, step by step, and you watch. Then run the film backwards.",
    ),
    Demo(
        classifier,
        tuple(classifier.MODELS),
        "What do you see?",
        "A ViT and a Swin name a drawing, a third network a photograph, and show where they looked.",
    ),
)


def build(models: dict[str, dict], demos: tuple[Demo, ...] = DEMOS) -> gr.Blocks:
    """One app of all demos: the home page at /, each demo at /<stem>. `models` is {stem: what its build takes}.

    Endpoint names stay as the pages have them, since each starts with its stem.
    """
    with ui.blocks("Vitrail") as app:
        gr.Navbar(main_page_name="Vitrail")
        ui.heading("Vitrail", "Small vision models, trained from scratch by scripts you can read, on this machine.")
        cards = "".join(card(demo, models[demo.stem]) for demo in demos)
        gr.HTML(f'<nav class="v-cards" aria-label="Demos">{cards}</nav>', padding=False)
    for demo in demos:
        page = demo.module.build(models[demo.stem])
        with app.route(demo.title, f"/{demo.stem}"):
            gr.Navbar(main_page_name="Vitrail")
            page.render()
    return app


def card(demo: Demo, models: dict) -> str:
    """HTML of the link to a demo: some of its pictures, its title and sentence, and whether its models are there."""
    folder = EXAMPLES / demo.stem
    files = sorted(folder.glob("card*.png")) or sorted(folder.glob("*.png"))[:CARD_PICTURES]
    pictures = "".join(
        f'<img alt="" src="data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}">' for file in files
    )
    missing = [name for name, model in models.items() if isinstance(model, Exception)]
    state = f"{len(missing)} of {len(models)} models could not be loaded" if missing else ", ".join(models)
    strip = f'<span class="v-strip">{pictures}</span>' if pictures else ""
    return (
        f'<a class="v-link" href="{demo.stem}">{strip}'
        f"<strong>{html.escape(demo.title)}</strong><span>{html.escape(demo.text)}</span>"
        f'<small class="{"v-missing" if missing else ""}">{html.escape(state)}</small></a>'
    )


def load_models(choices: list[str], demos: tuple[Demo, ...] = DEMOS) -> dict[str, dict]:
    """{stem: {name: model or CheckpointError}}, from choices like "ddpm=folder" in place of a demo's own models.

    Raises SystemExit for a choice that names no demo.
    """
    names: dict[str, list[str]] = {demo.stem: [] for demo in demos}
    for choice in choices:
        stem, _, name = choice.partition("=")
        if stem not in names or not name:
            raise SystemExit(f"--model {choice}: write STEM=MODEL, where STEM is one of {', '.join(names)}")
        names[stem].append(name)
    return {demo.stem: demo.module.load_models(names[demo.stem] or list(demo.models)) for demo in demos}


def flat(models: dict[str, dict]) -> dict:
    """{"stem/name": model} of what load_models gives."""
    return {f"{stem}/{name}": model for stem, named in models.items() for name, model in named.items()}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m apps.gallery", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="STEM=MODEL",
        help="variant, folder or org/repo; may be repeated",
    )
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument("--host", help="the address to listen on; 127.0.0.1 by default, 0.0.0.0 lets others in")
    parser.add_argument("--mcp", action="store_true", help=ui.MCP_HELP)
    hosts.add_flags(parser)
    args = parser.parse_args()
    models = load_models(args.model)
    ui.launch(
        build(models),
        port=args.port,
        host=args.host,
        models=flat(models),
        mcp=args.mcp,
        allowed_hosts=args.allowed_hosts,
        proxy=args.proxy,
    )


if __name__ == "__main__":
    main()
