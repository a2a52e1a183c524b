"""From a run to a folder that can go to the Hub, and from there to the Hub or into the repository.

    python -m training.publish runs/ddpm --repo_id org/name [--private] [--create_pr] [--dry_run]
    python -m training.publish runs/ddpm --bundle ddpm/emoji-32      # into hub_models/weights/

An export folder is byte for byte what its Hub repository holds: stock files in fp16, README.md (the card), run.json
(what the card says about the training), results.json (what was measured), manifest.json (sha256 of all of them).
"""

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

from hub_models import card, store
from training import figures

CARD, RUN, RESULTS = "README.md", "run.json", "results.json"


def write_export(folder: Path, save: Callable[[Path], None], run: dict) -> list[str]:
    """Fill `folder` by `save` and complete it; returns the names of the files a push would take.

    save(folder) writes the stock files in fp32. The folder appears complete or not at all.
    Raises CheckpointError when the result doesn't verify, ValueError when the card would be refused by the Hub.
    """
    temporary = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    save(temporary)
    store.to_half(temporary)
    (temporary / RUN).write_text(json.dumps(run, indent=1, sort_keys=True) + "\n")
    write_card(temporary)
    store.verify(temporary, manifest_required=True)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)
    return store.files_to_push(folder)


def write_card(folder: Path, pictures: dict[str, Image.Image] | None = None) -> None:
    """Write README.md from run.json and, where it has been measured, results.json; then the manifest.

    pictures: {name: figure} to put beside it and show in the card, before the curves of the run itself.
    Raises ValueError that lists what the Hub would refuse.
    """
    run = json.loads((folder / RUN).read_text())
    if run.get("history"):
        pictures = (pictures or {}) | {
            "training": figures.training_curves(run["history"], run["images_seen"] / run["steps"])
        }
    for name, picture in (pictures or {}).items():
        picture.save(folder / f"{name}.png", optimize=True)
    run["pictures"] = [f"{name}.png" for name in pictures or {}]
    results = json.loads((folder / RESULTS).read_text()) if (folder / RESULTS).is_file() else None
    text = card.write_card(run, results)
    if problems := card.lint(text):
        raise ValueError("the model card would be refused: " + "; ".join(problems))
    (folder / CARD).write_text(text)
    store.write_manifest(store.whole_of(folder))


def command_line(stem: str, argv: Sequence[str] | None = None) -> str:
    """The command of this run as one would type it again, without what only concerns this machine or this start."""
    words, kept, skip = list(sys.argv[1:] if argv is None else argv), [], False
    for word in words:
        if skip:
            skip = False
        elif word.split("=")[0] in ("--resume_from_checkpoint", "--output_dir", "--hub_model_id"):
            skip = "=" not in word
        elif word not in ("--force_resume", "--push_to_hub"):
            kept.append(word)
    return " ".join(["python -m", f"training.{stem}", *kept, f"--output_dir runs/{stem}"])


ART_LICENSES = {"Apache 2.0": "apache-2.0", "Apache-2.0": "apache-2.0", "MIT": "mit", "CC BY 4.0": "cc-by-4.0",
                "CC-BY-4.0": "cc-by-4.0", "CC-BY-SA-4.0": "cc-by-sa-4.0", "CC BY-SA 4.0": "cc-by-sa-4.0"}  # fmt: skip


def license_of(licenses: Sequence[str]) -> str | None:
    """The Hub licence id of weights trained on data under `licenses`: the most demanding of them.

    None where one is unknown or none is stated: the card then leaves the licence for the publisher to decide.
    """
    known = {ART_LICENSES.get(name, name.lower()) for name in licenses}
    for demanding in ("cc-by-sa-4.0", "cc-by-4.0", "apache-2.0"):
        if demanding in known and known <= {"cc-by-sa-4.0", "cc-by-4.0", "apache-2.0", "mit"}:
            return demanding
    return "apache-2.0" if known == {"mit"} else None


ATTRIBUTIONS = {
    "noto": "Noto Emoji, Google, Apache-2.0",
    "twemoji": "Twemoji, Twitter and other contributors, CC BY 4.0",
    "fluent": "Fluent Emoji, Microsoft, MIT",
    "fluent-flat": "Fluent Emoji Flat, Microsoft, MIT",
    "fxemoji": "FxEmojis, Mozilla, Apache-2.0",
}


def push_export(folder: Path, repo_id: str, *, private: bool = False, create_pr: bool = False) -> None:
    """Push an export folder; on failure say how to repeat it, and lose nothing. Raises SystemExit(1) then."""
    try:
        print("pushed to", store.push(folder, repo_id, private=private, create_pr=create_pr))
    except store.PushError as error:  # its message ends with the line that repeats the push; the export is on disk
        print(f"the export is kept in {folder}, but was not pushed: {error}", file=sys.stderr)
        raise SystemExit(1) from None


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="training.publish", description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path, help="a run folder, or its export folder")
    parser.add_argument("--repo_id", help="org/name on the Hub")
    parser.add_argument("--private", action="store_true")
    parser.add_argument("--create_pr", action="store_true", help="open a pull request instead of a commit on main")
    parser.add_argument("--dry_run", action="store_true", help="print the files that would be pushed, and stop")
    parser.add_argument("--bundle", metavar="STEM/VARIANT", help="copy the export into hub_models/weights/")
    args = parser.parse_args(argv)
    folder = args.run / "export" if (args.run / "export").is_dir() else args.run
    if not (folder / RUN).is_file():
        parser.error(f"{args.run} holds no export: finish the training first")
    if not args.repo_id and not args.bundle and not args.dry_run:
        parser.error("say where it goes: --repo_id org/name, or --bundle stem/variant")
    store.verify(folder, manifest_required=True)
    files = store.files_to_push(folder)
    print("\n".join(f"{(folder / name).stat().st_size:>12,}  {name}" for name in files))
    if args.dry_run:
        return
    if args.bundle:
        target = store.WEIGHTS / args.bundle
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        for name in files:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / name, target / name)
        store.verify(target, manifest_required=True)
        print(f"bundled as {args.bundle}")
    if args.repo_id:
        push_export(folder, args.repo_id, private=args.private, create_pr=args.create_pr)


if __name__ == "__main__":
    main()
