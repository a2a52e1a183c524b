"""`python -m training.data.emoji`: a build, and what it counted."""

import sys

import tyro

from training import publish
from training.data import emoji
from training.data.emoji.build import Config, SourceError, build


def main() -> None:
    config = tyro.cli(Config, description=emoji.__doc__, prog="python -m training.data.emoji")
    if config.push_to_hub and not config.hub_dataset_id:
        sys.exit("--push_to_hub needs --hub_dataset_id name/data-set.")
    try:
        statistics = build(config)
    except (SourceError, ValueError) as error:
        sys.exit(f"error: {error}")
    for name, style in statistics["styles"].items():
        ways = ", ".join(f"{count:,} by {way}" for way, count in style["matched_by"].items())
        empty = f"; {len(style['empty'])} empty left out: {', '.join(style['empty'])}" if style["empty"] else ""
        plain = f"{style['without_skin_tone']:,} without skin tone"
        print(f"{name:12} {style['pictures']:6,} pictures, {plain} ({ways}){empty}")
    for name, split in statistics["splits"].items():
        plain = f"{split['without_skin_tone']:,} without skin tone"
        print(f"{name:14} {split['pictures']:6,} pictures, {plain}, {split['concepts']:,} concepts")
    print(f"written to {config.output_dir}")
    if config.push_to_hub and config.hub_dataset_id:
        publish.push_export(config.output_dir, config.hub_dataset_id, private=config.hub_private, repo_type="dataset")


if __name__ == "__main__":
    main()
