"""Which concept an emoji is of, which split a picture is in, which drawing shows which emoji."""

import hashlib
import re
import unicodedata
from collections import defaultdict

from training.data.emoji.tables import (
    ADULTS,
    CHILDREN,
    DROPPED,
    HELDOUT_SHARE,
    LABELS,
    SAME,
    SPLITS,
    UNSEEN_STYLES,
    VALIDATION_SHARE,
)


def base_code(code: str) -> str:
    """The concept of an emoji: its code points without skin tone, gender, hair, direction and variation selector.

    "1f469-1f3fd-200d-1f373" (woman cook, medium skin tone) and "1f9d1-200d-1f373" (cook) are both "1f9d1-200d-1f373".
    Man, woman and person are one; so are boy, girl and child, all families, and the pairs of `SAME`.
    """
    parts = code.lower().split("-")
    if len(parts) > 1:
        parts = [part for part in parts if part not in DROPPED] or parts[:1]
    parts = ["1f9d1" if p in ADULTS else "1f9d2" if p in CHILDREN else p for p in parts]
    joined = "-".join(parts)
    joined = re.sub(r"(-?200d)+$|^(200d-?)+", "", re.sub(r"200d(-200d)+", "200d", joined))
    if "-" in joined and set(joined.split("-")) <= {"1f9d1", "1f9d2", "200d"}:
        return "1f46a"  # a family, whatever its members
    return SAME.get(joined, joined)


def _share(text: str) -> float:
    """A number in [0, 1), fixed by the text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) / 2**64


def assign_splits(rows: list[dict]) -> list[str]:
    """The split of each row, from its `concept`, `style` and `skin_tone` alone."""
    styles_of = defaultdict(set)  # concept → the trainable styles that draw it (skin tones do not count)
    for row in rows:
        if row["style"] not in UNSEEN_STYLES and not row["skin_tone"]:
            styles_of[row["concept"]].add(row["style"])

    heldout = set()
    for concept, styles in styles_of.items():
        chosen = {style for style in styles if _share(f"pair:{concept}:{style}") < HELDOUT_SHARE}
        if styles - chosen:  # the concept stays in train in another style
            heldout |= {(concept, style) for style in chosen}

    def split(row: dict) -> str:
        if row["style"] in UNSEEN_STYLES:
            return "unseen_style"
        if concept_split(row["concept"]) == "validation":
            return "validation"
        return "heldout_pairs" if (row["concept"], row["style"]) in heldout else "train"

    return [split(row) for row in rows]


def concept_split(concept: str) -> str:
    """Whether a concept is one of "train" or of "validation", in whatever style."""
    return "validation" if _share(f"concept:{concept}") < VALIDATION_SHARE else "train"


def take_sample(rows: list[dict]) -> list[dict]:
    """100 of the rows, in their order: of each label 6 in train, 1 in validation, 1 in heldout_pairs; 4 skin tones."""
    by_hash = sorted(rows, key=lambda row: _share(f"sample:{row['style']}:{row['code']}"))
    plain = [row for row in by_hash if not row["skin_tone"]]
    taken = []
    for label in LABELS:
        part = {split: [r for r in plain if r["split"] == split and r["label"] == label] for split in SPLITS}
        heldout = part["heldout_pairs"][:1]
        concepts = {row["concept"] for row in heldout}
        twins = [row for row in part["train"] if row["concept"] in concepts][:1]  # the concept in another style
        others = [row for row in part["train"] if row["concept"] not in concepts]
        taken += heldout + part["validation"][:1] + (twins + others)[:6]
    taken += [row for row in by_hash if row["skin_tone"] and row["split"] == "train"][:4]
    chosen = {(row["style"], row["code"]) for row in taken}
    return [row for row in rows if (row["style"], row["code"]) in chosen]


def slug(name: str) -> str:
    """A name as icon sets spell it: "woman's hat" → "womans-hat", "flag: Åland Islands" → "flag-aland-islands"."""
    name = re.sub(r"[’'“”.]", "", name).replace("&", "and").replace("*", "asterisk").replace("#", "hash")
    name = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", name).strip("-")


def match(emoji: list[dict], icons: set[str], slug_of_code: dict[str, str], by_hand: dict[str, str]) -> dict:
    """Which icon draws which emoji: {code: (icon, how)}, how being a key of `ways` below.

    The surer ways go first, over all emoji, and an icon found by name is used once: a "cat" that is taken for the face
    is not the animal too. Names are compared without hyphens ("blackclubsuit").
    """
    bare = {}  # the icon of a name without hyphens
    for icon in sorted(icons):
        bare.setdefault(icon.replace("-", ""), icon)
    slug_of_code = {_without_selector(code): icon for code, icon in slug_of_code.items()}
    code_of_hand = {code: icon for icon, code in by_hand.items() if code}
    refused = {icon for icon, code in by_hand.items() if not code}

    def unicode_name(code: str) -> list[str]:
        return [unicodedata.name(chr(int(code, 16)), "")] if "-" not in code else []

    ways = {
        "table": lambda e: [code_of_hand.get(_without_selector(e["code"]))],
        "code point": lambda e: [slug_of_code.get(_without_selector(e["code"]))],
        "name": lambda e: [bare.get(slug(e["name"]).replace("-", ""))],
        "Unicode name": lambda e: [
            bare.get(slug(n).replace("-", "")) for n in unicode_name(_without_selector(e["code"]))
        ],
        "shortcode": lambda e: [bare.get(slug(s).replace("-", "")) for s in e["shortcodes"]],
    }
    found, used = {}, set()
    for how, candidates in ways.items():
        for entry in emoji:
            if entry["code"] in found:
                continue
            for icon in candidates(entry):
                if icon in icons and icon not in refused and icon not in used:
                    found[entry["code"]] = (icon, how)
                    used.add(icon)
                    break
    return found


def _without_selector(code: str) -> str:
    return "-".join(part for part in code.lower().split("-") if part != "fe0f")
