"""Build a Space out of the repository: its app, exactly the modules that the app imports, its examples, its weights.

    python spaces/build.py ddpm                                     # into build/spaces/ddpm
    python spaces/build.py gallery --output build/spaces/gallery    # one Space with all pages
    python spaces/build.py classifier --model org/repo@revision     # weights pulled at start instead of bundled
    python spaces/build.py ddpm --model runs/my-ddpm/export            # weights of your own, bundled
    python spaces/build.py gallery --push --repo_id org/name [--hardware zero-a10g] [--private]

Written by hand is spaces/<stem>/README.md alone: front matter and text. What the page says of itself (its title, what
it is in short, its models, the seconds of GPU of a call) is the PAGE of its module.
"""

import argparse
import ast
import importlib
import re
import shlex
import shutil
import sys
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # as a script, it has its own folder there alone
from hub_models import terminal

if __name__ == "__main__":
    terminal.opening("spaces/build.py")

import yaml
from huggingface_hub import HfApi, SpaceHardware, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from packaging.requirements import Requirement

from apps.kit.page import Page
from hub_models import store
from hub_models.client import haste
from hub_models.publish import lint, packing, upload

ROOT = Path(__file__).resolve().parent.parent
SPACES = ROOT / "spaces"
FIRST_PARTY = ("apps", "hub_models")
GALLERY = "gallery"
APP, SPACE, README, REQUIREMENTS = "app.py", "space.py", "README.md", "requirements.txt"
BUILT_BY = "Built by `python spaces/build.py"  # how a built folder is known, before it is replaced
PYTHON_VERSION = "3.12"  # of those that ZeroGPU has, 3.12 and 3.10, the one that the dependencies run on
HARDWARE = "zero-a10g"  # a free account may host two ZeroGPU Spaces, and no Gradio Space on a CPU
STARTUP = "30m"
CODE_LICENSE = "apache-2.0"


class BuildError(RuntimeError):
    """One sentence: why there is no Space, and what to do."""


# ---- what an app is made of ------------------------------------------------------------------------------------------


def stems() -> list[str]:
    """The Spaces that can be built: whatever has a README here and an app, sorted, the gallery last."""
    found = [path.parent.name for path in SPACES.glob(f"*/{README}") if module_file(f"apps.{path.parent.name}")]
    return sorted(found, key=lambda stem: (stem == GALLERY, stem))


def module_file(name: str, root: Path = ROOT) -> Path | None:
    """The file of a first-party module, None where the dotted name is no module (but a name in one)."""
    path = root.joinpath(*name.split("."))
    if (path / "__init__.py").is_file():
        return path / "__init__.py"
    return path.with_suffix(".py") if path.with_suffix(".py").is_file() else None


def imports(path: Path, root: Path = ROOT) -> set[str]:
    """Dotted names of all that a file imports, at any depth of it; `from a import b` gives a and a.b."""
    package = path.relative_to(root).with_suffix("").parts[:-1]
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*above, node.module] if node.module else above)
            names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return names


def first_party(entries: Iterable[str], root: Path = ROOT) -> dict[str, Path]:
    """{module: file} of these modules, all they import from apps and hub_models, and the packages around them."""
    found: dict[str, Path] = {}
    waiting = list(entries)
    while waiting:
        name = waiting.pop()
        path = module_file(name, root) if name.split(".")[0] in FIRST_PARTY else None
        if path is None or name in found:
            continue
        found[name] = path
        waiting += [".".join(name.split(".")[:n]) for n in range(1, name.count(".") + 1)]
        waiting += imports(path, root)
    return dict(sorted(found.items()))


def beside(path: Path) -> list[Path]:
    """The styles, scripts and tables that a module names and that lie beside it."""
    constants = [node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)]
    names = {text for text in constants if isinstance(text, str) and re.fullmatch(r"[\w-]+\.(css|js|json)", text)}
    return sorted(file for name in names if (file := path.with_name(name)).is_file())


def page_of(stem: str) -> Page:
    """What a page says of itself."""
    return importlib.import_module(f"apps.{stem}").PAGE


def pages(stem: str) -> list[str]:
    """The stems whose pages a Space has: itself, or all that the gallery shows."""
    if stem != GALLERY:
        return [stem]
    return sorted(demo.PAGE.stem for demo in importlib.import_module(f"apps.{GALLERY}").DEMOS)


def requirements() -> str:
    """requirements.txt: the base dependencies of pyproject.toml, each at the version of requirements.lock.

    Those alone: the Hub installs gradio with extras of its own in the same step, and a pin further down would clash.
    Raises BuildError for one that is not locked.
    """
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    locked: dict[str, list[str]] = {}
    for line in lock_lines():
        locked.setdefault(_normal(Requirement(line).name), []).append(line)
    lines = []
    for requirement in map(Requirement, wanted):
        if _normal(requirement.name) not in locked:
            raise BuildError(f"{requirement.name} is not in requirements.lock: make lock")
        lines += locked[_normal(requirement.name)]
    return "\n".join(lines) + "\n"


def lock_lines() -> list[str]:
    """The requirements of requirements.lock, one a line and without their hashes."""
    joined = (ROOT / "requirements.lock").read_text().replace("\\\n", " ")
    return [line.partition(" --hash=")[0].strip() for line in joined.splitlines()]


def locked_version(name: str) -> str:
    """The version of a package in requirements.txt."""
    lines = [line for line in requirements().splitlines() if _normal(Requirement(line).name) == _normal(name)]
    return str(Requirement(lines[0]).specifier).removeprefix("==")


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


# ---- models: bundled, or pulled by the Space -------------------------------------------------------------------------


@dataclass
class Weights:
    """The checkpoints of a Space, and what their cards say."""

    choices: dict[str, list[str]] = field(default_factory=dict)  # {stem: names that its load_models gets}
    bundled: dict[str, Path] = field(default_factory=dict)  # {"stem/variant": folder to copy}
    pulled: dict[str, tuple[str, list[str], str]] = field(default_factory=dict)  # {repo: (revision, files, licence)}
    private: list[str] = field(default_factory=list)  # repos that need a token, and are not preloaded
    licenses: set[str] = field(default_factory=set)
    datasets: set[str] = field(default_factory=set)


def choose_weights(stem: str, chosen: Sequence[str] = ()) -> Weights:
    """The weights of a Space: those chosen, each as NAME or STEM=NAME, and the bundled ones of pages without a choice.

    A name is a bundled variant, a folder, or org/repo[@revision], which is checked, pinned to its commit and pulled by
    the Space. Raises BuildError; store.CheckpointError for a model that is not sound.
    """
    names: dict[str, list[str]] = {page: [] for page in pages(stem)}
    for choice in chosen:
        page, _, name = choice.partition("=")
        if page not in names and stem != GALLERY:
            page, name = stem, choice
        if page not in names or not name:
            every = f"STEM=MODEL, where STEM is one of {', '.join(names)}"
            wanted = every if stem == GALLERY else "a variant, a folder or org/repo@revision"
            raise BuildError(f"--model {choice}: write {wanted}")
        names[page].append(name)
    weights = Weights()
    for page, mine in names.items():
        for also in page_of(page).also:
            other, _, one = also.partition("/")
            for variant in [one] if one else store.variants(other):
                _bundle(weights, other, store.bundled(other)[variant], variant)
        here = [name for name in page_of(page).models if _is_here(*page_of(page).of_stem(name))]
        weights.choices[page] = [_choose(weights, page, name) for name in mine or here or store.variants(page)]
        if page_of(page).models and not weights.choices[page] and stem != GALLERY:
            raise BuildError(f"no weights of {page} are bundled yet: --model with a folder or org/repo@revision")
    return weights


def _is_here(stem: str, name: str) -> bool:
    return name in store.variants(stem)


def _choose(weights: Weights, page: str, chosen: str) -> str:
    """Note one model among the weights, and return the name by which the Space's page loads it."""
    stem, name = page_of(page).of_stem(chosen)
    return chosen.removesuffix(name) + _noted(weights, stem, name)


def _noted(weights: Weights, stem: str, name: str) -> str:
    if _is_here(stem, name):
        return _bundle(weights, stem, store.bundled(stem)[name], name)
    folder = store.resolve(stem, name)
    if Path(name).expanduser().is_dir():
        variant = folder.resolve().parent.name if folder.name == "export" else folder.resolve().name
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", variant):
            raise BuildError(
                f"{folder}: call the folder by letters, digits, '.', '_' and '-' alone, it names the model"
            )
        return _bundle(weights, stem, folder, variant)
    repo, _, revision = name.partition("@")
    with haste():
        return _pulled(weights, repo, revision)


def _pulled(weights: Weights, repo: str, revision: str) -> str:
    info = HfApi().model_info(repo, revision=revision or None)
    files = sorted(file.rfilename for file in info.siblings or [] if Path(file.rfilename).suffix in store.READ)
    try:
        text = Path(hf_hub_download(repo, README, revision=info.sha)).read_text(encoding="utf-8")
    except EntryNotFoundError:
        text = ""
    license = _note_card(weights, text, repo)
    weights.pulled[repo] = (info.sha, files, license)
    if info.private or info.gated:
        weights.private.append(repo)
    return f"{repo}@{info.sha}"


def _bundle(weights: Weights, stem: str, folder: Path, variant: str) -> str:
    whole = store.whole_of(folder)
    packing.without_links(whole)  # before its card is read
    path = f"{store.PARTS[stem][0] if whole != folder else stem}/{variant}"
    if path not in weights.bundled:
        readme = whole / README
        _note_card(weights, readme.read_text(encoding="utf-8") if readme.is_file() else "", path)
        weights.bundled[path] = whole
    return variant


def _note_card(weights: Weights, text: str, of: str) -> str:
    """Note licence and data sets of a model's card; returns the licence, "unknown" where it states none."""
    front, _ = split(text)
    license = front.get("license") or "unknown"
    weights.licenses |= set(license if isinstance(license, list) else [license])
    data = front.get("datasets") or []
    weights.datasets |= {
        name for name in ([data] if isinstance(data, str) else data) if re.fullmatch(r"[\w.-]+/[\w.-]+", name)
    }
    return license if isinstance(license, str) else ", ".join(license)


def space_license(licenses: Iterable[str]) -> str:
    """The Hub's licence id for a Space of this code with weights under these: the most demanding, or `other`."""
    known = {CODE_LICENSE, *licenses}
    for demanding in ("cc-by-sa-4.0", "cc-by-4.0", CODE_LICENSE):
        if demanding in known and known <= {"cc-by-sa-4.0", "cc-by-4.0", CODE_LICENSE, "mit"}:
            return demanding
    return "other"


# ---- front matter ----------------------------------------------------------------------------------------------------

NEEDED = """title emoji colorFrom colorTo sdk sdk_version python_version app_file license short_description""".split()


def split(text: str) -> tuple[dict, str]:
    """Front matter and body of a Markdown file, {} and the text where it has none. Raises yaml.YAMLError."""
    match = re.match(r"---\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|$)(.*)", text, re.DOTALL)
    front = yaml.safe_load(match[1]) if match else {}
    return (front if isinstance(front, dict) else {}), (match[2] if match else text).strip()


def description(stem: str) -> tuple[dict, str]:
    """What was written by hand for a Space: front matter and text."""
    return split((SPACES / stem / README).read_text(encoding="utf-8"))


def front_matter(stem: str, weights: Weights, hardware: str | None = None) -> dict:
    """The front matter of a built Space: the page's, what was written by hand, what follows from lock and weights."""
    page = page_of(stem)
    front = {"title": page.title, "short_description": page.short} | description(stem)[0]
    front |= {
        "sdk": "gradio",
        "sdk_version": locked_version("gradio"),
        "python_version": PYTHON_VERSION,
        "app_file": APP,
        "license": space_license(weights.licenses),
        "suggested_hardware": hardware or front.get("suggested_hardware", HARDWARE),
        "startup_duration_timeout": front.get("startup_duration_timeout", STARTUP),
    }
    lists = {
        "models": sorted({*front.get("models", []), *weights.pulled}),
        "datasets": sorted({*front.get("datasets", []), *weights.datasets}),
        "preload_from_hub": [
            f"{repo} {','.join(files)} {sha}"
            for repo, (sha, files, _) in sorted(weights.pulled.items())
            if repo not in weights.private
        ],
    }
    for key, value in lists.items():
        front.pop(key, None)
        if value:
            front[key] = value
    return front


# ---- the folder ------------------------------------------------------------------------------------------------------

SOURCE = '''"""{title}. {built_by} {stem}`; edit it there, not here."""

import space  # first: on ZeroGPU its package stands in for CUDA from then on
from apps import {stem}
from apps.kit import launch

# Bundled, or from the Hub; the variables MODEL_REPO_ID and MODEL_REVISION of a Space put others in their place.
models = {stem}.load_models(space.models({names!r}))
demo = space.on_gpu({stem}.build(models), seconds={stem}.PAGE.gpu_seconds)

if __name__ == "__main__":
    launch.launch(demo, models={flat}, mcp=space.HAS_MCP)
'''


def app_source(stem: str, weights: Weights) -> str:
    """The app.py of a Space: models at module level, as ZeroGPU wants them, and nowhere else."""
    names = (
        weights.choices[stem]
        if stem != GALLERY
        else [f"{page}={n}" for page, mine in weights.choices.items() for n in mine]
    )
    flat = "models" if stem != GALLERY else f"{GALLERY}.flat(models)"
    return SOURCE.format(title=page_of(stem).title, built_by=BUILT_BY, stem=stem, names=names, flat=flat)


def readme(stem: str, weights: Weights, hardware: str | None = None) -> str:
    """README.md of a Space. Raises BuildError that lists what the Hub would refuse."""
    front = yaml.safe_dump(front_matter(stem, weights, hardware), sort_keys=False, allow_unicode=True, width=1000)
    parts = [f"---\n{front}---", description(stem)[1]]
    rows = [f"| bundled `{path}` | {_license(folder)} |" for path, folder in sorted(weights.bundled.items())]
    rows += [
        f"| [{repo}](https://huggingface.co/{repo}/tree/{sha}) | {license} |"
        for repo, (sha, _, license) in sorted(weights.pulled.items())
    ]
    parts += ["## Weights", "\n".join(["| weights | licence |", "|---|---|", *rows])]
    parts.append(
        f"The code is under {CODE_LICENSE}; whose work the weights and examples have seen is in THIRD_PARTY.md."
    )
    example = f"{stem}=org/name" if stem != GALLERY else "ddpm=org/name classifier=org/other"
    parts += [
        "## Another model",
        "Duplicate this Space and set the variable `MODEL_REPO_ID` to your model"
        f"{'s, each after its page' if stem == GALLERY else ''} (`{example.removeprefix(f'{stem}=')}`), and "
        "`MODEL_REVISION` to a commit of it. A private model needs the secret `HF_TOKEN`.",
    ]
    if weights.private:
        parts.append(
            f"{', '.join(weights.private)} cannot be preloaded, being private or gated: set the secret `HF_TOKEN`."
        )
    text = "\n\n".join(part for part in parts if part) + "\n"
    problems = [f"{key} is missing" for key in NEEDED if key not in split(text)[0]]
    if problems := problems + lint.lint(text, "space"):
        raise BuildError(f"the Hub would refuse README.md of {stem}: " + "; ".join(problems))
    return text


def _license(folder: Path) -> str:
    path = folder / README
    return (
        str(split(path.read_text(encoding="utf-8"))[0].get("license", "not stated")) if path.is_file() else "not stated"
    )


def build(stem: str, output: Path | None = None, models: Sequence[str] = (), hardware: str | None = None) -> Path:
    """The folder of a finished Space. It appears complete or not at all, in the place of an older build.

    Raises BuildError; store.CheckpointError for weights that are not sound.
    """
    if stem not in stems():
        raise BuildError(f"no Space is called {stem!r}: there are {', '.join(stems())}")
    output = Path(output or ROOT / "build" / "spaces" / stem)
    old = output / APP
    if output.exists() and not (old.is_file() and BUILT_BY in old.read_text(encoding="utf-8", errors="ignore")):
        if not output.is_dir() or any(output.iterdir()):
            raise BuildError(f"{output} holds something that was not built here: name another --output")
    weights = choose_weights(stem, models)
    half = output.with_name(output.name + ".tmp")
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir(parents=True)
    for module in first_party([f"apps.{stem}", "apps.kit.launch"]).values():
        for path in [module, *beside(module)]:
            _copy(path, half / path.relative_to(ROOT))
    for page in pages(stem):
        for path in sorted((ROOT / "apps" / "examples" / page).rglob("*")):
            if path.is_file() and not path.name.startswith("."):
                _copy(path, half / path.relative_to(ROOT))
    for name, folder in weights.bundled.items():
        store.verify(folder)
        target = half / "hub_models" / "weights" / name
        for file in packing.without_links(folder):
            _copy(folder / file, target / file)
        store.verify(target)  # what was copied, not what was looked at
    _copy(SPACES / SPACE, half / SPACE)
    _copy(ROOT / "THIRD_PARTY.md", half / "THIRD_PARTY.md")
    _copy(ROOT / "LICENSE", half / "LICENSE.txt")
    (half / APP).write_text(app_source(stem, weights), encoding="utf-8")
    (half / REQUIREMENTS).write_text(requirements(), encoding="utf-8")
    (half / README).write_text(readme(stem, weights, hardware), encoding="utf-8")
    shutil.rmtree(output, ignore_errors=True)
    half.rename(output)
    return output


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


# ---- to the Hub ------------------------------------------------------------------------------------------------------

REFUSALS = {
    401: "the Hub does not know you: `hf auth login`, or set HF_TOKEN to a token that may write",
    402: "the Hub wants a paid account for this: a free one may host two ZeroGPU Spaces and no Gradio Space on a CPU. "
    "Free one of the two, build `gallery` (all pages in one Space) with --hardware zero-a10g, or subscribe to PRO",
    403: "your token may not create a Space there: take a token that may write to {owner}, or another --repo_id; on a "
    "free account ZeroGPU is limited to two Spaces",
}


def push(
    folder: Path, repo_id: str, *, hardware: str | None = None, private: bool = False, harmless=(), again: str = ""
) -> str:
    """Create the Space where it is not there yet, upload a built folder in one commit, and return its address.

    again: the command that repeats it. Raises packing.PushError, which says what a refusal (401, 402, 403) means; no
    token is in it.
    """
    again = again or f"python spaces/build.py {folder.name} --push --repo_id {repo_id}" + " --private" * private
    wanted = {"space_hardware": hardware} if hardware else {}
    try:
        return upload.push(
            folder, repo_id, private=private, repo_type="space", again=again, harmless=harmless, **wanted
        )
    except packing.PushError as error:
        status = getattr(getattr(error.__cause__, "response", None), "status_code", None)
        if status not in REFUSALS:
            raise
        meaning = REFUSALS[status].format(owner=repo_id.split("/")[0])
        raise packing.PushError(f"{repo_id} was refused ({status}): {meaning}. {error}") from error


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="spaces/build.py", description=__doc__.split("\n")[0])
    parser.add_argument("stem", help=f"one of {', '.join(stems())}")
    parser.add_argument("--output", type=Path, help="the folder to build; build/spaces/<stem> by default")
    several = {"action": "append", "default": []}
    model = "a variant or a folder, bundled, or org/repo[@revision], pulled; may be repeated"
    parser.add_argument("--model", metavar="[STEM=]MODEL", help=model, **several)
    parser.add_argument("--push", action="store_true", help="upload it; needs --repo_id")
    parser.add_argument("--repo_id", help="org/name of the Space")
    parser.add_argument("--private", action="store_true")
    harmless = "what looks like a secret and is none, as the refusal names it; may be repeated"
    parser.add_argument("--harmless", metavar="PLACE", help=harmless, **several)
    parser.add_argument("--hardware", choices=[kind.value for kind in SpaceHardware], help="zero-a10g by default")
    args = parser.parse_args(argv)
    if args.push and not args.repo_id:
        parser.error("say where it goes: --repo_id org/name")
    try:
        folder = build(args.stem, args.output, args.model, args.hardware)
        files = [path for path in folder.rglob("*") if path.is_file()]
        megabytes = sum(path.stat().st_size for path in files) / 1e6
        print(f"built {folder}: {len(files)} files, {megabytes:.1f} MB")
        if args.push:
            words = sys.argv[1:] if argv is None else argv
            again = f"python spaces/build.py {shlex.join(words)}"
            options = {"hardware": args.hardware, "private": args.private, "harmless": args.harmless, "again": again}
            print("pushed to", push(folder, args.repo_id, **options))
    except (BuildError, store.CheckpointError) as error:
        print(error, file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
