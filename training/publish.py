"""From a run to a folder that can go to the Hub, and from there to the Hub or into the repository.

    python -m training.publish runs/ddpm --repo_id org/name [--private] [--create_pr] [--license ID] [--dry_run]
    python -m training.publish build/data/emoji --repo_type dataset --repo_id org/name
    python -m training.publish runs/ddpm --bundle ddpm/emoji-32      # into hub_models/weights/

An export folder is byte for byte what its Hub repository holds, but for the repository's name in the card: stock files
in fp16, README.md (the card), run.json (what the card says about the training), results.json (what was measured),
manifest.json (sha256 of all of them). Publishing it twice makes one commit.
"""

import argparse
import json
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml
from huggingface_hub import HfApi, constants, try_to_load_from_cache
from PIL import Image

from hub_models import store
from hub_models.client import haste
from hub_models.publish import card, halves, licences, lint, packing, paths, upload
from training import figures
from training.data.facts import front_matter

CARD, RUN, RESULTS = "README.md", "run.json", "results.json"


def write_export(folder: Path, save: Callable[[Path], None], run: dict) -> list[str]:
    """Fill `folder` by `save` and complete it; returns the names of the files a push would take.

    save(folder) writes the stock files in fp32. The folder appears complete or not at all, and names no place on this
    machine.
    What a push at the end would stop at is looked at before the first step: licences that exclude each other, no token.
    Raises CheckpointError when the result doesn't verify, ValueError when the card would be refused by the Hub,
    SystemExit where the push that was asked for can't come about.
    """
    run = paths.without_places(with_stages(licensed(run)))
    if run.get("config", {}).get("push_to_hub") and run.get("steps") == 0:
        check_push(run)
    temporary = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    save(temporary)
    halves.to_half(temporary)
    paths.forget_places(temporary)
    (temporary / RUN).write_text(json.dumps(run, indent=1, sort_keys=True) + "\n")
    write_card(temporary)
    store.verify(temporary, manifest_required=True)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)
    return packing.files_to_push(folder)


def write_card(folder: Path, pictures: dict[str, Image.Image] | None = None, *, redraw: bool = True) -> None:
    """Write README.md from run.json and, where it has been measured, results.json; then the manifest.

    pictures: {name: figure} to put beside it and show in the card, before those that lie there and the run's own
    curves. redraw: whether to draw the curves. Raises ValueError that lists what the Hub would refuse.
    """
    run = json.loads((folder / RUN).read_text())
    drawn = dict(pictures or {})
    if redraw and run.get("history"):
        drawn[card.CURVES] = figures.training_curves(run["history"], run["images_seen"] / run["steps"])
    for name, picture in drawn.items():
        picture.save(folder / f"{name}.png", optimize=True)
    known = dict.fromkeys([*(f"{name}.png" for name in drawn), *sorted(path.name for path in folder.glob("*.png"))])
    run["pictures"] = sorted(known, key=f"{card.CURVES}.png".__eq__)  # stable: the curves last
    results = json.loads((folder / RESULTS).read_text()) if (folder / RESULTS).is_file() else None
    text = card.write_card(run, results)
    if problems := lint.lint(text):
        raise ValueError("the model card would be refused: " + "; ".join(problems))
    (folder / CARD).write_text(text)
    packing.write_manifest(store.whole_of(folder))


def with_stages(run: dict) -> dict:
    """The run with what made the model that it began from: a bundled variant, or a folder that is an export.

    "earlier": command, hours, steps, images_seen of each stage. A stage is a run of the same script on the same data.
    "lineage": what else it began from, a line each, the newest first; "base_attributions": whose work that has seen.
    """
    folder = base_folder(run["stem"], run["base_model"]) if run.get("base_model") else None
    if folder is None or not packing.own_file(folder / RUN):
        return run
    before = json.loads((folder / RUN).read_text(encoding="utf-8"))
    mine, theirs = (
        [paths.without_places(each.get("config", {}).get(key)) for key in ("dataset_name", "resolution")]
        for each in (run, before)
    )
    if mine == theirs and before.get("stem") == run["stem"]:
        kept = ("command", "hours", "steps", "images_seen", "changed_on_resume")
        stage = {key: before[key] for key in kept if before.get(key)}
        run = run | {"earlier": [*before.get("earlier", []), stage]}
    of = "Vitrail's " if folder.is_relative_to(store.WEIGHTS) else ""
    weights = store.weights_sha256(folder)[:12]
    line = f"{of}`{run['stem']}/{paths.called(folder)}`, {before.get('title', 'untitled')}, weights {weights}"
    credits = [*before.get("attributions", []), *before.get("base_attributions", [])]
    return run | {
        "lineage": [line, *before.get("lineage", [])],
        "base_attributions": [text for text in credits if text not in run.get("attributions", [])],
    }


def base_folder(stem: str, base: str) -> Path:
    """The folder of a model that a run began from, if it is here: of a bundled variant, or one that was named."""
    return store.bundled(stem).get(base, Path(base).expanduser())


# ---- licences --------------------------------------------------------------------------------------------------------


def licensed(run: dict) -> dict:
    """The run with what decides its licence: that of the model it began from, and --hub_license where it was said."""
    if said := run.get("config", {}).get("hub_license"):
        run = run | {"license": said, "license_settled": True}
    if run.get("base_model") and "base_license" not in run:
        run = run | {"base_license": base_license(run["stem"], str(run["base_model"]))}
    return run


def base_license(stem: str, base: str) -> str | None:
    """The licence that a base model's card states: of a bundled variant, a folder, or org/repo; None without one."""
    repo, _, revision = base.partition("@")
    folder = base_folder(stem, base)
    if folder.is_dir():
        home = next((f for f in (folder, folder.parent) if packing.own_file(f / CARD)), None)
        text = (home / CARD).read_text(encoding="utf-8") if home else ""
    elif not constants.is_offline_mode():
        try:
            with haste():
                facts = HfApi().model_info(repo, revision=revision or None, timeout=10).card_data
        except Exception:  # the card is not worth a training; a licence that isn't known stops the push
            return None
        return _only(facts.get("license") if facts else None)
    else:
        cached = try_to_load_from_cache(repo, CARD, revision=revision or None)
        text = Path(cached).read_text(encoding="utf-8") if isinstance(cached, str) else ""
    try:
        return _only(front_matter(text).get("license"))
    except yaml.YAMLError:
        return None


def _only(stated: object) -> str | None:
    return licences.AND.join(map(str, stated)) if isinstance(stated, list) else str(stated or "") or None


def license_of(licenses: Sequence[str]) -> str | None:
    """The Hub licence id of weights trained on data under `licenses`: the one that covers them all.

    Where none does, or one is unknown, all of them joined by " AND ": a push then stops until --license says which.
    None where none is stated.
    """
    named = sorted({name.lower().strip().replace(" ", "-") for name in licenses if name})
    if not named:
        return None
    try:
        return licences.one_license(named)
    except licences.LicenseError:
        return licences.AND.join(named)


def check_push(run: dict) -> None:
    """Return if nothing that can be known before a training stands against pushing it. Raises SystemExit."""
    try:
        licences.license_of(run)
    except licences.LicenseError as error:
        raise SystemExit(f"--push_to_hub: {str(error).replace('--license ', '--hub_license ')}") from None
    if constants.is_offline_mode():
        raise SystemExit("--push_to_hub: HF_HUB_OFFLINE is set; unset it, or publish the run later")
    if problem := upload.token_problem():
        raise SystemExit(f"--push_to_hub: {problem}; run `hf auth login`, or publish the run later")


# ---- the line that repeats a run -------------------------------------------------------------------------------------


def command_line(stem: str, argv: Sequence[str] | None = None) -> str:
    """The command of this run as a shell takes it again, without what only concerns this machine or this start.

    A folder that is elsewhere on this machine is named by its last part.
    """
    words, kept, skip = list(sys.argv[1:] if argv is None else argv), [], False
    for word in words:
        if skip:
            skip = False
        elif _flag(word) in ("--resume_from_checkpoint", "--output_dir", "--hub_model_id", "--hub_license"):
            skip = "=" not in word
        elif _flag(word) not in ("--force_resume", "--push_to_hub", "--hub_private"):
            kept.append(word)
    words = [shlex.quote(paths.portable(word)) for word in kept]
    return " ".join(["python -m", f"training.{stem}", *words, f"--output_dir runs/{stem}"])


def _flag(word: str) -> str:
    """A flag as it is called here: hyphens do as well."""
    return word.split("=")[0].replace("-", "_").replace("__", "--", 1) if word.startswith("--") else word


# ---- to the Hub ------------------------------------------------------------------------------------------------------


@contextmanager
def staged(folder: Path, repo_id: str, settled: dict | None = None) -> Generator[Path]:
    """A folder with what is pushed of an export, its card written for this repository; removed afterwards.

    settled: what was decided about the licence. Raises LicenseError, PushError where there are links.
    """
    names = packing.without_links(folder)
    run = json.loads((folder / RUN).read_text())
    run |= {"repo_id": repo_id} | (settled or {})
    licences.license_of(run)
    with tempfile.TemporaryDirectory() as parent:
        target = Path(parent, folder.name)
        for name in names:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            try:
                if Path(name).suffix != ".safetensors":
                    raise OSError  # what the card's writing may change is copied
                os.link((folder / name).resolve(), target / name)  # the blob, if it is a link of the Hub's cache
            except OSError:
                shutil.copyfile(folder / name, target / name)
        (target / RUN).write_text(json.dumps(run, indent=1, sort_keys=True) + "\n")
        write_card(target, redraw=False)
        try:
            yield target
        except store.CheckpointError as error:  # people know the export, not its copy
            raise type(error)(str(error).replace(str(target), str(folder))) from error


def push_export(
    folder: Path,
    repo_id: str,
    *,
    private: bool = False,
    create_pr: bool = False,
    repo_type: str = "model",
    settled: dict | None = None,
    harmless: Sequence[str] = (),
) -> None:
    """Push an export or data set folder; on failure say how to repeat it, and lose nothing. Raises SystemExit(1) then.

    settled: {"license": id, "license_settled": True, …} where the publisher has decided it. harmless: see
    `upload.push`.
    """
    again = ["python -m training.publish", shlex.quote(str(folder)), f"--repo_id {repo_id}"]
    again += [f"--repo_type {repo_type}"] * (repo_type != "model")
    again += ["--private"] * private + ["--create_pr"] * create_pr
    again += [f"--{key} {shlex.quote(str(v))}" for key, v in (settled or {}).items() if key != "license_settled"]
    again += [f"--harmless {shlex.quote(place)}" for place in harmless]
    options = {"private": private, "create_pr": create_pr, "repo_type": repo_type, "again": " ".join(again)}
    options["harmless"] = harmless
    try:
        if repo_type == "model":
            with staged(folder, repo_id, settled) as target:
                address = upload.push(target, repo_id, **options)
        else:
            address = upload.push(folder, repo_id, **options)
    except (store.CheckpointError, ValueError, OSError) as error:
        # A PushError ends with the line that repeats the push.
        line = "" if options["again"] in str(error) else f"; then: {options['again']}"
        print(f"{folder} is kept, but was not pushed: {error}{line}", file=sys.stderr)
        raise SystemExit(1) from None
    print("pushed to", address)


def show(folder: Path, repo_type: str) -> list[str]:
    """Print what would be pushed, and what would stay at home; returns the names of the former."""
    files = packing.files_to_push(folder, repo_type=repo_type)
    print("\n".join(f"{(folder / name).stat().st_size:>12,}  {name}" for name in files))
    if left := packing.left_out(folder, repo_type=repo_type):
        more = f" and {len(left) - 20} more" if len(left) > 20 else ""
        print(f"stays here: {', '.join(left[:20])}{more}", file=sys.stderr)
    return files


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="training.publish", description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path, help="a run folder, its export folder, or the folder of a data set")
    parser.add_argument("--repo_id", help="org/name on the Hub")
    parser.add_argument("--repo_type", choices=("model", "dataset"), default="model")
    parser.add_argument("--private", action="store_true")
    parser.add_argument("--create_pr", action="store_true", help="open a pull request instead of a commit on main")
    parser.add_argument("--license", help="the licence of these weights, decided by you (an id of the Hub, or other)")
    parser.add_argument("--license_name", help="with --license other")
    parser.add_argument("--license_link", help="with --license other: where its text stands")
    harmless = "what looks like a secret and is none, as the refusal names it; may be repeated"
    parser.add_argument("--harmless", action="append", default=[], metavar="PLACE", help=harmless)
    parser.add_argument("--dry_run", action="store_true", help="check all, print the files that would go, and stop")
    parser.add_argument("--bundle", metavar="STEM/VARIANT", help="copy the export into hub_models/weights/")
    args = parser.parse_args(argv)
    model = args.repo_type == "model"
    folder = args.run / "export" if model and (args.run / "export").is_dir() else args.run
    if model and not (folder / RUN).is_file():
        parser.error(
            f"{args.run} holds no export: finish the training first (or is it a data set? --repo_type dataset)"
        )
    if not model and not (folder / CARD).is_file():
        parser.error(f"{folder} holds no {CARD}: a data set is published with its card")
    if not args.repo_id and not args.bundle and not args.dry_run:
        parser.error("say where it goes: --repo_id org/name, or --bundle stem/variant")
    settled = {key: getattr(args, key) for key in ("license", "license_name", "license_link") if getattr(args, key)}
    settled |= {"license_settled": True} if args.license else {}
    try:
        if model:
            store.verify(folder, manifest_required=True)
            packing.without_links(folder)
        files = show(folder, args.repo_type)
        if args.dry_run:
            _try(folder, args.repo_id or "org/name", args.repo_type, settled, args.harmless)
            return
    except (store.CheckpointError, ValueError) as error:
        raise SystemExit(f"error: {error}") from None
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
        how: dict = {"create_pr": args.create_pr, "repo_type": args.repo_type, "harmless": args.harmless}
        push_export(folder, args.repo_id, private=args.private, settled=settled, **how)


def _try(folder: Path, repo_id: str, repo_type: str, settled: dict, harmless: Sequence[str]) -> None:
    """All that a push does before it asks the Hub."""
    if repo_type == "model":
        with staged(folder, repo_id, settled) as target:
            upload.check_push(target, harmless=harmless)
    else:
        upload.check_push(folder, repo_type=repo_type, harmless=harmless)


if __name__ == "__main__":
    main()
