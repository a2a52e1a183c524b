"""All demos as pages of one app, behind a home page with a card for each.

python -m apps.gallery [--port 7860] [--mcp] [--model ddpm=FOLDER --model classifier=org/repo]
"""

import argparse
import html
from types import ModuleType

import gradio as gr

from apps import captioning, classifier, ddpm, detection, families, pretrain, segmentation, text_to_image
from apps.kit import launch, parts
from apps.kit.page import Page
from apps.kit.pictures import data_url

CARD_PICTURES = 6
DEMOS = (
    text_to_image,
    captioning,
    segmentation,
    detection,
    ddpm,
    families,
    classifier,
    pretrain,
)  # modules of a PAGE, load_models and build
PAGE = Page(
    stem="gallery",
    title="Vitrail",
    sentence="Small vision models at work on this machine, trained by scripts you can read.",
    card="All demos as pages of one app.",
    short="Small vision models at work, trained by open scripts",
    models=(),
    gpu_seconds=max(demo.PAGE.gpu_seconds for demo in DEMOS),
    call=ddpm.PAGE.call,
    example=ddpm.PAGE.example,
)


def build(models: dict[str, dict], demos: tuple[ModuleType, ...] = DEMOS) -> gr.Blocks:
    """One app of all demos: the home page at /, each demo at /<stem>. `models` is {stem: what its build takes}.

    Endpoint names stay as the pages have them, since each starts with its stem.
    """
    with parts.blocks(PAGE.title) as app:
        gr.Navbar(main_page_name=PAGE.title)
        parts.heading(PAGE.title, PAGE.sentence)
        cards = "".join(card(demo.PAGE, models[demo.PAGE.stem]) for demo in demos)
        gr.HTML(f'<nav class="v-cards" aria-label="Demos">{cards}</nav>', padding=False)
    for demo in demos:
        page = demo.build(models[demo.PAGE.stem])
        with app.route(demo.PAGE.title, f"/{demo.PAGE.stem}"):
            gr.Navbar(main_page_name=PAGE.title)
            page.render()
    return app


def card(page: Page, models: dict) -> str:
    """HTML of the link to a demo: some of its pictures, its title and sentence, and whether its models are there."""
    files = sorted(page.folder.glob("card*.png")) or sorted(page.folder.glob("*.png"))[:CARD_PICTURES]
    shown = "".join(f'<img alt="" src="{data_url(file.read_bytes())}">' for file in files)
    missing = [name for name, model in models.items() if isinstance(model, Exception)]
    state = f"{len(missing)} of {len(models)} models could not be loaded" if missing else ", ".join(models)
    strip = f'<span class="v-strip">{shown}</span>' if shown else ""
    return (
        f'<a class="v-link" href="{page.stem}">{strip}'
        f"<strong>{html.escape(page.title)}</strong><span>{html.escape(page.card)}</span>"
        f'<small class="{"v-missing" if missing else ""}">{html.escape(state)}</small></a>'
    )


def load_models(choices: list[str], demos: tuple[ModuleType, ...] = DEMOS) -> dict[str, dict]:
    """{stem: {name: model or CheckpointError}}, from choices like "ddpm=folder" in place of a demo's own models.

    Raises SystemExit for a choice that names no demo.
    """
    names: dict[str, list[str]] = {demo.PAGE.stem: [] for demo in demos}
    for choice in choices:
        stem, _, name = choice.partition("=")
        if stem not in names or not name:
            raise SystemExit(f"--model {choice}: write STEM=MODEL, where STEM is one of {', '.join(names)}")
        names[stem].append(name)
    return {demo.PAGE.stem: demo.load_models(names[demo.PAGE.stem] or list(demo.PAGE.models)) for demo in demos}


def flat(models: dict[str, dict]) -> dict:
    """{"stem/name": model} of what load_models gives."""
    return {f"{stem}/{name}": model for stem, named in models.items() for name, model in named.items()}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m apps.gallery", description=__doc__.splitlines()[0])
    parser.add_argument("--model", action="append", default=[], metavar="STEM=MODEL",
                        help="variant, folder or org/repo; may be repeated")  # fmt: skip
    launch.add_flags(parser)
    given = vars(parser.parse_args())
    models = load_models(given.pop("model"))
    launch.launch(build(models), models=flat(models), **given)


if __name__ == "__main__":
    main()
