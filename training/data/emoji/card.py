"""The data set's card: what is in it, counts, licences and attributions, put into card.md."""

from pathlib import Path
from string import Template

import yaml

from training.data.emoji import tables

TEMPLATE = Path(__file__).with_name("card.md")
EXPLAINED = {
    "train": "what is trained on",
    "validation": "5 % of the concepts, in all styles",
    "heldout_pairs": "5 % of the (concept, style) pairs, whose concept is in train in another style",
    "unseen_style": "a style that no model is trained on; `concept_split` says which concepts are new as well",
}
WAYS = ("code point", "table", "name", "Unicode name", "shortcode")


def card(statistics: dict) -> str:
    """The dataset card of a build's statistics, as Markdown."""
    splits, styles = statistics["splits"], statistics["styles"]
    pictures = sum(split["pictures"] for split in splits.values())
    front = yaml.safe_dump(front_matter(statistics, pictures), sort_keys=False, allow_unicode=True).strip()
    of_sample = "\nIt is a sample: the table of styles counts what it was drawn from." if statistics["sample"] else ""
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        front=front,
        pictures=f"{pictures:,}",
        resolution=statistics["resolution"],
        of_sample=of_sample,
        splits=table(
            "| split | pictures | without skin tone | concepts | |",
            "|---|---:|---:|---:|---|",
            ([name, *counts(s), f"{s['concepts']:,}", EXPLAINED[name]] for name, s in splits.items()),
        ),
        labels=table(
            "| label | " + " | ".join(splits) + " |",
            "|---|" + "---:|" * len(splits),
            ([label, *(f"{s['labels'].get(label, 0):,}" for s in splits.values())] for label in tables.LABELS),
        ),
        styles=table(
            "| style | pictures | without skin tone | "
            + " | ".join(f"by {way}" for way in WAYS)
            + " | left out as empty |",
            "|---|" + "---:|" * (len(WAYS) + 3),
            (
                [name, *counts(s), *(f"{s['matched_by'].get(way, 0):,}" for way in WAYS), str(len(s["empty"]))]
                for name, s in styles.items()
            ),
        ),
        licences=table(
            "| style | by | licence | package |",
            "|---|---|---|---|",
            (
                [name, f"[{s['author']}]({s['url']})", f"[{s['license']}]({s['license_url']})", f"`{s['package']}`"]
                for name, s in styles.items()
            ),
        ),
        names=f"{tables.NAMES.name}@{tables.NAMES.version}",
        first_split=next(iter(splits), "train"),
    )


def front_matter(statistics: dict, pictures: int) -> dict:
    """What the Hub reads of a card."""
    licenses = sorted({style["license"].lower() for style in statistics["styles"].values()})
    files = [{"split": split, "path": f"data/{split}-*"} for split in statistics["splits"]]
    return {
        "license": licenses[0] if len(licenses) == 1 else licenses,
        "language": ["en"],
        "pretty_name": "Emoji art with names, keywords and labels",
        "task_categories": ["image-classification", "text-to-image"],
        "tags": ["emoji", "svg"],
        "size_categories": ["n<1K" if pictures < 1000 else "1K<n<10K" if pictures < 10_000 else "10K<n<100K"],
        "configs": [{"config_name": "default", "data_files": files}],
    }


def table(head: str, rule: str, rows) -> str:
    """A table of Markdown; rows: lists of cells."""
    return "\n".join([head, rule, *("| " + " | ".join(cells) + " |" for cells in rows)])


def counts(part: dict) -> list[str]:
    return [f"{part['pictures']:,}", f"{part['without_skin_tone']:,}"]
