"""The house rules: who may import whom, what an app needs, what is shipped, and that no number is stale."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from families import FAMILIES as STEMS
from safetensors import safe_open

from hub_models import store
from hub_models.publish import lint, packing, tables

ROOT = Path(__file__).parent.parent
ROOMS = ("hub_models", "training", "apps", "spaces", "tests", "benchmarks", "docs", ".ci")
PUBLISH = "hub_models.publish"
DOORS = ("training.evaluate", "training.publish")  # they may know every stem
BASE_ONLY_BLOCKED = (
    "accelerate",
    "datasets",
    "detect_secrets",
    "tyro",
    "matplotlib",
    "peft",
    "sacrebleu",
    "skimage",
    "resvg_py",
    "tensorboard",
    "torchmetrics",
    "pycocotools",
)
SHIPPED = {f"{stem}/{name}": folder for stem in STEMS for name, folder in store.bundled(stem).items()}
MIB = 1 << 20


def files(root: Path, *suffixes: str) -> list[Path]:
    """What the repository holds with these suffixes; not what tools and runs leave beside it."""
    found = [p for p in root.iterdir() if p.is_file()]
    found += [p for room in ROOMS for p in (root / room).rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    return sorted(p for p in found if p.suffix in suffixes)


def module_name(root: Path, path: Path) -> str:
    return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def imports(root: Path, path: Path) -> set[str]:
    """Dotted names of all that a file imports, at any depth of it; `from a import b` gives a and a.b."""
    names, package = set(), module_name(root, path).split(".")[: None if path.name == "__init__.py" else -1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*above, node.module] if node.module else above)
            names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in (
            "import_module",
            "__import__",
        ):
            names |= {a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)}
    return names


def stem_of(name: str, room: str) -> str | None:
    """The stem whose module in this room the dotted name lies in."""
    parts = name.split(".")
    return parts[1] if parts[0] == room and len(parts) > 1 and parts[1] in STEMS else None


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def broken_rules(root: Path) -> list[str]:
    """training → hub_models ← apps, never sideways; one line for each import that goes elsewhere."""
    broken = []
    for path in files(root, ".py"):
        name = module_name(root, path)
        room, own = name.split(".")[0], stem_of(name, name.split(".")[0])
        if room not in ("hub_models", "training", "apps"):
            continue
        for other in sorted(imports(root, path)):
            there, stem = other.split(".")[0], stem_of(other, other.split(".")[0])
            if there not in ("hub_models", "training", "apps", "spaces", "tests", "benchmarks"):
                continue
            if there != room and there != "hub_models":
                broken.append(f"{name} imports {other}: only hub_models may be imported from another room")
            elif room != "training" and within(other, PUBLISH) and not within(name, PUBLISH):
                broken.append(f"{name} imports {other}: what apps load only reads, and no Space carries what writes")
            elif room == "hub_models" and stem and stem != own and (own, stem) != ("text_to_image", "clip"):
                broken.append(f"{name} imports {other}: stems of hub_models don't know each other")
            elif room == there == "training" and stem and stem != own and name not in DOORS:
                broken.append(f"{name} imports {other}: scripts meet in artefacts, not in imports")
            elif (
                room == there == "apps" and name != "apps.gallery" and (stem and stem != own or other == "apps.gallery")
            ):
                broken.append(f"{name} imports {other}: only the gallery knows the apps")
    return broken


def test_rules_of_imports_hold():
    assert broken_rules(ROOT) == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("hub_models/ddpm.py", "from training import metrics"),
        ("hub_models/ddpm.py", "def f():\n    import apps.kit"),
        ("hub_models/ddpm.py", "from hub_models import classifier"),
        ("hub_models/ddpm.py", "from . import clip"),
        ("hub_models/clip/model.py", "from hub_models.ddpm import load"),
        ("hub_models/store.py", "from hub_models import ddpm"),
        ("hub_models/store.py", "def f():\n    from hub_models.publish import upload"),
        ("hub_models/ddpm.py", "from hub_models import publish"),
        ("hub_models/clip/folder.py", "from ..publish.halves import to_half"),
        ("hub_models/publish/card.py", "from hub_models import ddpm"),
        ("apps/ddpm.py", "from hub_models.publish import packing"),
        ("apps/kit/parts.py", "import hub_models.publish.card"),
        ("training/ddpm.py", "from training import classifier"),
        ("training/ddpm.py", "import apps.ddpm"),
        ("training/loop.py", "from training.ddpm import main"),
        ("training/data/sources.py", "from ..classifier import main"),
        ("apps/ddpm.py", "from apps.classifier import build"),
        ("apps/kit/parts.py", "from apps import ddpm"),
        ("apps/ddpm.py", "from training.data.emoji import LABELS"),
        ("apps/ddpm.py", "import importlib\nimportlib.import_module('training.metrics')"),
    ],
)
def test_rules_see_each_kind_of_trespass(tmp_path, path, source):
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_text(source + "\n")
    assert broken_rules(tmp_path)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("hub_models/text_to_image.py", "from hub_models import clip, store"),
        ("hub_models/clip/__init__.py", "from .model import load"),
        ("hub_models/publish/halves.py", "from hub_models import store\nfrom hub_models.publish import packing"),
        ("training/publish.py", "from hub_models.publish import card"),
        ("training/evaluate.py", "from training import ddpm, classifier"),
        ("training/ddpm.py", "from hub_models import classifier, ddpm\nfrom training import loop"),
        ("apps/gallery.py", "from apps import ddpm, classifier\nfrom apps.kit import launch"),
        ("apps/ddpm.py", "from apps.kit import parts\nfrom hub_models import ddpm"),
        ("tests/test_x.py", "from training import ddpm"),
    ],
)
def test_rules_allow_what_they_should(tmp_path, path, source):
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_text(source + "\n")
    assert broken_rules(tmp_path) == []


def test_rules_of_names():
    vague = {"utils", "util", "helpers", "helper", "common", "misc", "manager"}
    assert [p for p in files(ROOT, ".py") if p.stem in vague or p.parent.name in vague] == []
    assert not (ROOT / "spaces" / "__init__.py").exists(), "it would shadow the package of ZeroGPU"
    assert (ROOT / "hub_models" / "__init__.py").read_text() == "", "a Space takes one stem and leaves the others"


def test_rules_of_what_no_code_may_do():
    """Nothing is unpickled, no foreign code runs, nothing is shared to the outside, no address of an index is kept.

    But for one file of a package, whose hash is known, by the script that makes safetensors of it: as tensors alone.
    """
    own = ROOT / "tests" / "test_house.py"
    for path in [p for p in files(ROOT, ".py") if p != own]:
        tree, opens_pickles = ast.parse(path.read_text(encoding="utf-8")), path.parent != ROOT / "tests"
        for node in ast.walk(tree):
            where = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.keyword) and node.arg in ("trust_remote_code", "share"):
                assert not (isinstance(node.value, ast.Constant) and node.value.value is True), (
                    f"{where} {node.arg}=True"
                )
            if opens_pickles and isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name for alias in node.names} | {getattr(node, "module", "")}
                assert not names & {"pickle", "cloudpickle", "dill", "joblib"}, f"{where} imports a pickler"
            if opens_pickles and isinstance(node, ast.Attribute) and ast.unparse(node) == "torch.load":
                assert path == ROOT / "training" / "backbone.py", f"{where} torch.load"
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load" and opens_pickles:
                assert "weights_only=True" in ast.unparse(node), f"{where} torch.load without weights_only"
    addresses = re.compile(r"--(extra-)?index[-]url|--find[-]links|https?://\S+/simple\b")
    for path in files(ROOT, ".py", ".md", ".toml", ".lock", ".txt", ".json", ".yml", ".yaml", "", ".sh"):
        if path != own:
            assert not addresses.search(path.read_text(encoding="utf-8", errors="ignore")), (
                f"an index address in {path}"
            )


def without_refusal(source: str) -> list[str]:
    """The calls that open something of a stranger's and do not say trust_remote_code=False, "line: callee" each."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        callee = ast.unparse(node.func)
        name = callee.rpartition(".")[2]
        opens = name in ("from_pretrained", "load_dataset") or (
            name in ("from_config", "pipeline") and re.match(r"Auto[A-Z]|transformers\.", callee)
        )
        if (
            opens and callee != "smp.from_pretrained"
        ):  # it and timm.create_model know no such argument, and no such code
            said = {k.arg: k.value for k in node.keywords}.get("trust_remote_code")
            if not (isinstance(said, ast.Constant) and said.value is False):
                found.append(f"{node.lineno}: {callee}")
    return found


def test_rules_of_what_opens_folders_of_strangers():
    for path in [p for room in ("hub_models", "training", "apps") for p in (ROOT / room).rglob("*.py")]:
        assert without_refusal(path.read_text(encoding="utf-8")) == [], path


@pytest.mark.parametrize(
    "source",
    [
        "AutoConfig.from_pretrained(x)",
        "kind.from_pretrained(x, trust_remote_code=None)",
        "AutoModel.from_config(c)",
        "datasets.load_dataset(x)",
        "load_dataset(x, trust_remote_code=flag)",
        "AutoModel.from_pretrained(x, **options)",
    ],
)
def test_rules_see_a_call_that_would_ask(source):
    assert without_refusal(source)


def test_rules_of_the_lock():
    """requirements.lock has every direct dependency at a version that pyproject.toml allows, hashes and no address."""
    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(r for extra in project["optional-dependencies"].values() for r in extra)]
    text = (ROOT / "requirements.lock").read_text()
    assert "://" not in text
    locked: dict[str, list[str]] = {}
    for line in text.replace("\\\n", " ").splitlines():
        line, *hashes = line.split(" --hash=sha256:")
        requirement = Requirement(line)
        assert hashes and all(re.fullmatch(r"[0-9a-f]{64} *", each) for each in hashes), (
            f"{line} has no hash: make lock"
        )
        locked.setdefault(requirement.name.lower().replace("_", "-"), []).append(str(requirement.specifier)[2:])
    for requirement in map(Requirement, wanted):
        versions = locked.get(requirement.name.lower().replace("_", "-"))
        assert versions, f"{requirement.name} isn't locked: make lock"
        assert all(requirement.specifier.contains(v) for v in versions), (
            f"{requirement} is locked at {versions}: make lock"
        )


@pytest.mark.parametrize("backend", ["", "cpu"])
def test_rules_of_the_setup(backend):
    """What is installed has the lock's hashes; PyTorch without CUDA comes from an index of its own, with others."""
    command = ["make", "-n", "-B", "setup", *([f"TORCH_BACKEND={backend}"] if backend else [])]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "-r requirements.lock" in said
    assert ("--no-verify-hashes --torch-backend cpu" in said) == bool(backend) == ("--torch-backend" in said)


def test_the_tables_name_the_same_families():
    """Of scripts, pages and Spaces: each is named in its room's table, and in that of the tests."""
    from apps import gallery
    from training import evaluate

    assert set(evaluate.STEMS) == set(STEMS)
    pages = {demo.PAGE.stem for demo in gallery.DEMOS}
    assert {path.parent.name for path in (ROOT / "spaces").glob("*/README.md")} == pages | {gallery.PAGE.stem}
    several = {demo.PAGE.stem for demo in gallery.DEMOS if any("=" in name for name in demo.PAGE.models)}
    assert pages - several == {stem for stem, family in STEMS.items() if family.answer}
    assert not several & set(STEMS), "a page of several stems has a name of its own"


def test_base_install_is_enough_for_every_app():
    """All of hub_models and apps in a process where what only training and tests need doesn't exist."""
    modules = [
        module_name(ROOT, p) for p in files(ROOT, ".py") if p.relative_to(ROOT).parts[0] in ("hub_models", "apps")
    ]
    assert {"hub_models.store", "apps.kit.launch"} <= set(modules)
    code = f"""
import importlib, sys
blocked = set({BASE_ONLY_BLOCKED!r})

class Without:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in blocked else self.finder.find_spec(name, path, target)
    def find_distributions(self, context):
        found = getattr(self.finder, "find_distributions", lambda context: [])(context)
        return (d for d in found if d.metadata["Name"] not in blocked)
    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
try:
    import accelerate
except ModuleNotFoundError:
    pass
else:
    sys.exit("the blocking doesn't block")
for name in {modules!r}:
    importlib.import_module(name)
print("imported", len({modules!r}), *sorted(blocked & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == f"imported {len(modules)}", done.stdout


def test_weights_are_shipped_within_the_budget():
    assert SHIPPED, "no checkpoint in hub_models/weights"
    sizes = {p: p.stat().st_size for p in store.WEIGHTS.rglob("*") if p.is_file()}
    assert sum(sizes.values()) <= 280 * MIB
    assert max(sizes.values()) <= 48 * MIB
    stray = {p.relative_to(store.WEIGHTS).parts[0] for p in store.WEIGHTS.iterdir()} - set(STEMS)
    assert not stray, f"not a stem: {stray}"


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_checkpoint_is_sound_halved_and_described(name):
    folder = SHIPPED[name]
    store.verify(folder, manifest_required=True)
    here = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert here == set(packing.files_to_push(folder)), "a shipped folder is byte for byte what a push takes"
    for path in folder.rglob("*.safetensors"):
        with safe_open(path, "np") as file:
            dtypes = {file.get_slice(tensor).get_dtype() for tensor in file.keys()}  # noqa: SIM118
        assert not dtypes & {"F32", "F64", "BF16"} and "F16" in dtypes, f"{path} holds {dtypes}"
    text = (folder / "README.md").read_text()
    assert lint.lint(text) == []
    results = json.loads((folder / "results.json").read_text())
    assert {"stem", "model", "dataset", "data_hash", "seconds", "metrics"} <= set(results) and results["metrics"]
    assert results["stem"] == name.split("/")[0]
    for metric, value in results["metrics"].items():
        assert f"| `{metric}` | {tables.format_number(metric, value)} |" in text, f"the card says otherwise of {metric}"


def test_tables_are_those_of_the_results_files():
    command = [sys.executable, "-m", "training.results", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_stale_tables_are_noticed(tmp_path, monkeypatch):
    from training import results

    metrics = {"validation/top1": 0.5, "validation/pictures": 1200}
    made = {
        "stem": "classifier",
        "model": "vit",
        "dataset": "emoji",
        "data_hash": "abc",
        "seconds": 3.2,
        "metrics": metrics,
    }
    made |= {"baseline": {"validation/top1": 0.25}, "baseline_name": "nearest neighbour"}
    folder = tmp_path / "weights" / "classifier" / "vit"
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(made))
    run = {"title": "ViT, 64 px", "parameters": 2_700_000, "hours": 1.25, "images_seen": 64000}
    (folder / "run.json").write_text(json.dumps(run))
    (tmp_path / "README.md").write_text(f"# Title\n{results.START}\nold\n{results.END}\nrest\n")
    monkeypatch.setattr(results, "ROOT", tmp_path)
    monkeypatch.setattr(store, "WEIGHTS", tmp_path / "weights")
    with pytest.raises(SystemExit):
        results.main(["--check"])
    assert "old" in (tmp_path / "README.md").read_text(), "--check must not write"
    results.main([])
    results.main(["--check"])
    readme, page = (tmp_path / "README.md").read_text(), (tmp_path / "docs" / "RESULTS.md").read_text()
    assert (
        "| 2.7 M | 1.2 h, 64,000 pictures | `validation/top1` 50.0 % (25.0 %)<br>(in brackets: nearest neighbour) |"
        in readme
    )
    assert "| `validation/top1` | 50.0 % | 25.0 % |" in page and "| `validation/pictures` | 1,200 |  |" in page
    assert readme.startswith("# Title\n") and readme.endswith("rest\n") and "old" not in readme
    other = folder.with_name("street")  # measured on other data: a table of its own, with its own baseline
    other.mkdir()
    (other / "run.json").write_text(json.dumps(run))
    about = {"dataset": "streets", "metrics": {"validation/top1": 0.75}, "baseline": {"validation/top1": 0.125}}
    (other / "results.json").write_text(json.dumps(made | about))
    results.main([])
    page = (tmp_path / "docs" / "RESULTS.md").read_text()
    assert "| `validation/top1` | 50.0 % | 25.0 % |" in page and "| `validation/top1` | 75.0 % | 12.5 % |" in page
    (folder / "results.json").write_text(json.dumps(made | {"metrics": {"validation/top1": 0.51}}))
    with pytest.raises(SystemExit):
        results.main(["--check"])


def test_what_draws_by_class_stands_in_one_table(tmp_path, monkeypatch):
    from training import results

    monkeypatch.setattr(store, "WEIGHTS", tmp_path)
    drawn = {"kid_x1000": 12.5, "kid_x1000_low": 8.0, "kid_x1000_high": 20.0, "precision": 0.75, "recall": 0.5,
             "label_accuracy": 0.625, "seconds_per_picture": 0.125}  # fmt: skip
    more = {"gan/dcgan": {}, "tokens/gpt": {"validation/bits_per_dimension": 0.5}, "autoencoder/flat": None}
    for name, metrics in more.items():
        folder = tmp_path / name
        folder.mkdir(parents=True)
        found = {"dataset": "emoji", "metrics": drawn | metrics if metrics is not None else {"validation/psnr": 30.0},
                 "baseline": {"kid_x1000": 9.0, "label_accuracy": 0.75}}  # fmt: skip
        (folder / "results.json").write_text(json.dumps(found | {"stem": name.split("/")[0]}))
        run = {"parameters": 2_000_000, "hours": 1.0, "earlier": [{"hours": 0.5}]}
        (folder / "run.json").write_text(json.dumps(run))
    *_, table = results.drawn_part(results.shipped())
    assert table.splitlines()[2:] == [
        "| gan/dcgan | 12.5 (8 … 20) | 75.0 % | 50.0 % | 62.5 % |  | 0.125 | 2.00 M | 1.5 |",
        "| tokens/gpt | 12.5 (8 … 20) | 75.0 % | 50.0 % | 62.5 % | 0.5 | 0.125 | 2.00 M | 1.5 |",
        "| real pictures | 9 |  |  | 75.0 % |  |  |  |  |",
    ]


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_commands_of_the_readme_exist(name, capsys, monkeypatch):
    """Each `python -m … --flag`, each `make target` and each link in it."""
    import importlib

    text = (ROOT / name).read_text().replace("\\\n", " ")
    commands = re.findall(r"(?:python|accelerate launch.*?) -m ((?:training|apps)\.\w+)((?: +[^\s`#]+)*)", text)
    assert len(commands) >= 6
    helps: dict[str, str] = {}
    for module, rest in commands:
        if module not in helps:
            monkeypatch.setattr(sys, "argv", [module, "--help"])
            with pytest.raises(SystemExit) as stopped:
                importlib.import_module(module).main()
            assert stopped.value.code in (0, None)
            helps[module] = capsys.readouterr().out
        for flag in re.findall(r"--[\w-]+", rest):
            assert re.search(rf"{flag}\b", helps[module].replace("-", "_").replace("__", "--")), (
                f"{module} has no {flag}"
            )
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z]+)\b", text)) - targets - {"weights"} == set()
    for path in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (ROOT / path).exists(), f"{name} links to {path}, which isn't there"
