"""Spaces: built whole and no more, started away from the repository, called; front matter; ZeroGPU, API and MCP."""

import ast
import asyncio
import base64
import contextlib
import importlib.util
import inspect
import io
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import types
from pathlib import Path

import gradio as gr
import gradio_client
import pytest
import yaml
from PIL import Image

from apps.kit import wires
from hub_models import store
from hub_models.publish import lint, packing
from tests.commands import run_each
from tests.loopback_hub import TOKEN, loopback_hub

sys.path.insert(0, str(Path(__file__).parent.parent / "spaces"))  # scripts, in a folder that must not be a package

import api
import boot
import build
import space

ROOT = Path(__file__).parent.parent
STEMS = [stem for stem in build.stems() if stem != build.GALLERY]
WITHOUT_MODEL = {"text_to_image_settings", "families_table"}  # endpoints that only read a file
PULLED = "segmentation"  # the stem whose Space pulls its weights here; the others' are bundled

pytestmark = pytest.mark.timeout(600)  # the first test that needs them waits for three Spaces to start

# ZeroGPU's package as its documentation has it: a decorated function runs in a forked process, what goes in and comes
# out is pickled, and away from there no model runs.
ZERO_GPU = """
import functools, inspect, multiprocessing, os
import torch

def gradio_auto_wrap(task):
    return task

forked = False
call_module = torch.nn.Module.__call__

def only_on_gpu(self, *args, **kwargs):
    if not forked:
        raise RuntimeError(f"{type(self).__name__} runs in the main process, where ZeroGPU has no CUDA")
    return call_module(self, *args, **kwargs)

torch.nn.Module.__call__ = only_on_gpu

def GPU(task=None, *, duration=60, size=None):
    if task is None:
        return functools.partial(GPU, duration=duration, size=size)
    context = multiprocessing.get_context("fork")

    def work(arguments, results):
        global forked
        forked = True
        try:
            args, kwargs = arguments.get()
            answer = task(*args, **kwargs)
            for each in answer if inspect.isgenerator(answer) else [answer]:
                results.put(("value", each))
            results.put(("end", None))
        except BaseException as error:
            results.put(("error", error))

    def stream(*args, **kwargs):
        with open(os.environ["GPU_LOG"], "a") as log:
            log.write(f"{task.__name__} {duration(*args, **kwargs) if callable(duration) else duration}\\n")
        arguments, results = context.SimpleQueue(), context.SimpleQueue()
        process = context.Process(target=work, args=(arguments, results), daemon=True)
        process.start()
        arguments.put((args, kwargs))
        while (kind := (got := results.get())[0]) == "value":
            yield got[1]
        process.join()
        if kind == "error":
            raise got[1]

    if inspect.isgeneratorfunction(task):
        return functools.wraps(task)(lambda_generator(stream))
    return functools.wraps(task)(lambda *args, **kwargs: list(stream(*args, **kwargs))[-1])

def lambda_generator(stream):
    def generator(*args, **kwargs):
        yield from stream(*args, **kwargs)
    return generator
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """{stem: model}: tiny random folders, and the bundled variants of stems whose shipped models are tiny enough."""
    return api.tiny_models(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def hub(tiny):
    """A Hub on this machine that holds org/tiny, the segmenter, and takes Spaces."""
    with loopback_hub() as hub:
        folder = Path(tiny[PULLED])
        hub.create("org/tiny")
        hub.commit(
            "org/tiny",
            {name: (folder / name).read_bytes() for name in packing.files_to_push(folder)}
            | {"README.md": b"---\nlicense: mit\ndatasets: [org/masks]\nlibrary_name: transformers\n---\n# Tiny\n"},
        )
        yield hub


@pytest.fixture(scope="module")
def commands(hub, tmp_path_factory):
    """{what it does: (what `python spaces/build.py …` said, the folder it was to build)}, in one process on that Hub.

    The first to ask for a repository on the Hub, `refuse`, is refused it.
    """
    home = tmp_path_factory.mktemp("commands")
    push = ["--push", "--repo_id"]
    hosted = ["ddpm", "--output", home / "push" / "ddpm", *push, "org/demo", "--hardware", "t4-small"]
    lines = {
        "pull": [PULLED, "--output", home / PULLED, "--model", "org/tiny@main"],
        "refuse": ["ddpm", "--output", home / "refuse" / "ddpm", *push, "org/refused"],
        "push": hosted,
        "push again": hosted,
    }
    hub.fault("POST /api/repos/create", status=402, times=1)
    done = run_each(str(ROOT / "spaces" / "build.py"), [*lines.values()], hub.environment(home / "hf"), home)
    hub.faults.clear()
    return {name: (said, line[2]) for (name, line), said in zip(lines.items(), done, strict=True)}


@pytest.fixture(scope="module")
def built(tiny, commands, tmp_path_factory):
    """{stem: folder} of a built Space for every page and the gallery; one pulls its weights, by the command line."""
    folder = tmp_path_factory.mktemp("spaces")
    made = {}
    for stem in STEMS:
        if stem != PULLED:
            made[stem] = build.build(stem, folder / stem, [tiny[stem]])
    made[build.GALLERY] = build.build(build.GALLERY, folder / build.GALLERY)
    done, made[PULLED] = commands["pull"]
    assert done.returncode == 0, done.stderr
    return made


@pytest.fixture(scope="module")
def running(built, hub, tmp_path_factory):
    """{stem: address}: the gallery, the Space that pulls, and those of pages that are not in the gallery, side by side.

    Each runs in a clean process, the gallery and the one that pulls on ZeroGPU's stand-in; `running.gpu_log` says what
    went there.
    """
    beside = tmp_path_factory.mktemp("zero_gpu")
    (beside / "spaces").mkdir()
    (beside / "spaces" / "__init__.py").write_text(ZERO_GPU)
    log = beside / "log"
    log.touch()
    alone = [PULLED, *(stem for stem in STEMS if stem not in (PULLED, *build.pages(build.GALLERY)))]
    up, failed = {}, []
    with contextlib.ExitStack() as stack:

        def start(stem):
            zero = {"beside": beside} if stem in (build.GALLERY, PULLED) else {}
            variables = {"GPU_LOG": str(log)} if zero else {}
            if stem == PULLED:
                variables |= {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"}
            if stem == build.GALLERY:  # what a duplicated Space would set
                variables["MODEL_REPO_ID"] = "classifier=vit, ddpm=emoji-32, families=ddpm=emoji-32"
            try:
                up[stem] = stack.enter_context(boot.running(built[stem], environment=variables, **zero))
            except Exception as error:
                failed.append(error)

        threads = [threading.Thread(target=start, args=(stem,)) for stem in (build.GALLERY, *alone)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failed, failed
        yield up | {"gpu_log": log}


def front_matter(folder: Path) -> dict:
    return build.split((folder / "README.md").read_text())[0]


# ---- what is in a Space ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stem", [*STEMS, build.GALLERY])
def test_space_has_all_it_imports_and_nothing_else(built, stem):
    folder = built[stem]
    sources = {path.relative_to(folder).as_posix() for path in folder.rglob("*.py")}
    for name in sources:
        for imported in build.imports(folder / name, folder):
            if imported.split(".")[0] in ("apps", "hub_models"):
                holder = imported if build.module_file(imported, ROOT) else imported.rpartition(".")[0]
                assert build.module_file(holder, folder), f"{name} imports {imported}, which was not copied"
            assert imported.split(".")[0] not in ("training", "tests", "benchmarks"), f"{name} imports {imported}"
    reached, waiting = set(), [folder / "app.py"]
    while waiting:
        path = waiting.pop()
        if path not in reached:
            reached |= {path}
            named = {name for each in build.imports(path, folder) for name in (each, each.rpartition(".")[0])}
            waiting += [found for name in named if name and (found := build.module_file(name, folder))]
    assert {path.relative_to(folder).as_posix() for path in reached} == sources, "a module that nothing imports"
    named = {
        file.relative_to(ROOT) for name in sources if (ROOT / name).is_file() for file in build.beside(ROOT / name)
    }
    carried = {path.relative_to(folder) for suffix in ("css", "js") for path in folder.rglob(f"*.{suffix}")}
    words = {path.relative_to(folder) for path in (folder / "apps").rglob("*.json")}
    carried |= {path for path in words if path.parts[1] != "examples"}
    assert carried == named and Path("apps/kit/theme.css") in named, "styles, scripts and words"
    assert not (folder / "hub_models" / "publish").exists(), "a Space only reads"
    for path in folder.rglob("*.py"):
        assert "hub_models.publish" not in path.read_text(encoding="utf-8"), f"{path} has something of what writes"
    assert not (folder / "spaces").exists(), "it would answer ZeroGPU's import"
    assert not [path for path in folder.rglob("*") if path.is_symlink() or path.name.startswith(".")]
    app = ast.parse((folder / "app.py").read_text())
    imported = [node for node in app.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert [alias.name for alias in imported[0].names] == ["space"], "ZeroGPU's package has to come before torch"


def test_modules_of_a_space_are_those_that_one_would_copy_by_hand(built):
    sources = {path.relative_to(built["ddpm"]).as_posix() for path in built["ddpm"].rglob("*.py")}
    assert sources == {
        "app.py", "apps/__init__.py", "apps/ddpm/__init__.py", "apps/ddpm/desk.py", "apps/ddpm/field.py",
        "apps/ddpm/page.py", "apps/ddpm/paint.py", "apps/ddpm/plane.py", "apps/ddpm/plot.py", "apps/ddpm/scales.py",
        "apps/ddpm/two_films.py", "apps/ddpm/words.py", "apps/kit/__init__.py", "apps/kit/answers.py",
        "apps/kit/drawing_page.py", "apps/kit/films.py", "apps/kit/hosts.py", "apps/kit/launch.py", "apps/kit/page.py",
        "apps/kit/parts.py", "apps/kit/pictures.py", "apps/kit/session.py", "apps/kit/sizes.py",
        "apps/kit/tidy.py", "apps/kit/uploads.py", "apps/kit/values.py", "apps/kit/visitors.py", "apps/kit/wires.py",
        "hub_models/__init__.py", "hub_models/attention.py", "hub_models/bounds.py",
        "hub_models/building.py", "hub_models/classifier.py", "hub_models/client.py", "hub_models/ddpm.py",
        "hub_models/device.py",
        "hub_models/documents.py", "hub_models/drawing.py", "hub_models/explain.py", "hub_models/pictures.py",
        "hub_models/pretrained.py",
        "hub_models/samplers.py", "hub_models/stock.py", "hub_models/store.py", "hub_models/terminal.py",
        "hub_models/texts.py", "hub_models/timm_folders.py", "hub_models/ways.py", "hub_models/windows.py",
        "hub_models/worlds.py", "space.py",
    }  # fmt: skip


def test_bundled_space_carries_its_weights_and_examples(built, tiny):
    for stem in [*STEMS, build.GALLERY]:
        folder = built[stem]
        for page in build.pages(stem):
            examples = {p.name for p in (ROOT / "apps" / "examples" / page).glob("*") if not p.name.startswith(".")}
            assert {p.name for p in (folder / "apps" / "examples" / page).glob("*")} == examples
        weights = sorted((folder / "hub_models" / "weights").glob("*/*"))
        assert bool(weights) == (stem != PULLED)
        for path in weights:
            store.verify(path)
    own = built["text_to_image"] / "hub_models" / "weights" / "text_to_image" / Path(tiny["text_to_image"]).name
    assert store.weights_sha256(own) == store.weights_sha256(tiny["text_to_image"])
    for name in store.variants("ddpm"):
        whole = built[build.GALLERY] / "hub_models" / "weights" / "ddpm" / name
        assert packing.files_to_push(whole) == packing.files_to_push(store.bundled("ddpm")[name])
        store.verify(whole, manifest_required=True)


def test_requirements_are_the_base_dependencies_as_locked(built):
    from packaging.requirements import Requirement

    lines = (built["ddpm"] / "requirements.txt").read_text().splitlines()
    lock = build.lock_lines()
    assert lines and set(lines) <= set(lock)
    names = {Requirement(line).name.lower().replace("_", "-") for line in lines}
    assert {"torch", "gradio", "huggingface-hub"} <= names
    assert not names & {"accelerate", "datasets", "pytest", "mcp", "pydantic", "tyro"}, "apps need the base alone"
    assert f"gradio=={gr.__version__}" in lines


def test_an_older_build_is_replaced_and_a_foreign_folder_is_not(tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.md").write_text("years of work")
    with pytest.raises(build.BuildError, match="not built here"):
        build.build("ddpm", mine)
    assert (mine / "thesis.md").read_text() == "years of work"
    made = build.build("ddpm", tmp_path / "ddpm")
    (made / "apps" / "stale.py").write_text("")
    build.build("ddpm", made)
    assert not (made / "apps" / "stale.py").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ddpm", "mine"], "nothing half-built is left"


def test_unsound_and_missing_models_are_refused_by_name(tmp_path):
    bad = tmp_path / "bad"
    shutil.copytree(store.bundled("ddpm")["emoji-32"], bad)
    weights = bad / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-7])
    with pytest.raises(store.CheckpointError, match="diffusion_pytorch_model"):
        build.build("ddpm", tmp_path / "out", [str(bad)])
    with pytest.raises(store.CheckpointError, match="emoji-23"):
        build.build("ddpm", tmp_path / "out", ["emoji-23"])
    with pytest.raises(build.BuildError, match="STEM=MODEL"):
        build.build(build.GALLERY, tmp_path / "out", ["emoji-32"])
    with pytest.raises(build.BuildError, match="ddqm"):
        build.build("ddqm", tmp_path / "out")
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.tmp").exists()


# ---- front matter ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stem", [*STEMS, build.GALLERY])
def test_front_matter_is_complete_and_passes_the_lint(built, stem):
    text = (built[stem] / "README.md").read_text()
    assert lint.lint(text, "space") == []
    front = front_matter(built[stem])
    assert front["sdk"] == "gradio" and front["sdk_version"] == gr.__version__ and front["app_file"] == "app.py"
    assert re.search(r"^python_version: ['\"]3\.12['\"]$", text, re.MULTILINE), "bare, YAML would read a number"
    assert {"title", "emoji", "tags", "license", "suggested_hardware", "startup_duration_timeout"} <= set(front)
    assert len(front["short_description"]) <= 60
    assert ("models" in front) == ("preload_from_hub" in front) == (stem == PULLED)


def test_every_hand_written_readme_makes_a_front_matter():
    for path in sorted((ROOT / "spaces").glob("*/README.md")):
        page = build.page_of(path.parent.name)
        assert page.stem == path.parent.name and page.gpu_seconds > 0 and re.fullmatch(r"[a-z_]+", page.call)
        front = build.front_matter(path.parent.name, build.Weights(licenses={"mit"}))
        assert lint.lint(f"---\n{yaml.safe_dump(front, allow_unicode=True)}---\n", "space") == []


def test_pulled_model_is_pinned_preloaded_and_described(built, hub):
    sha = hub.sha("org/tiny")
    front = front_matter(built[PULLED])
    files = ",".join(sorted(name for name in hub.repos["org/tiny"] if name != "README.md"))
    assert front["models"] == ["org/tiny"] and front["datasets"] == ["org/masks"]
    assert front["preload_from_hub"] == [f"org/tiny {files} {sha}"]
    assert front["license"] == "apache-2.0", "of MIT weights and Apache code"
    assert f"org/tiny@{sha}" in (built[PULLED] / "app.py").read_text()


@pytest.mark.parametrize(
    ("licenses", "wanted"),
    [
        (set(), "apache-2.0"),
        ({"mit"}, "apache-2.0"),
        ({"cc-by-4.0", "mit"}, "cc-by-4.0"),
        ({"cc-by-4.0", "cc-by-sa-4.0"}, "cc-by-sa-4.0"),
        ({"cc-by-nc-4.0"}, "other"),
        ({"unknown"}, "other"),
    ],
)
def test_licence_of_a_space_is_the_most_demanding(licenses, wanted):
    assert build.space_license(licenses) == wanted


# ---- a Space that runs -----------------------------------------------------------------------------------------------


def test_every_page_is_up_elsewhere_with_its_models(built, running):
    for stem, address in running.items():
        if stem != "gpu_log":
            for path in ["", *(build.pages(stem) if stem == build.GALLERY else [])]:
                assert boot.open_page(address, path)
            boot.check_models(address)


@pytest.mark.parametrize("stem", STEMS)
def test_every_page_answers_the_client(built, running, stem, tmp_path):
    address = running.get(stem) or running[build.GALLERY]
    asked = build.page_of(stem).call
    boot.call(address, asked, boot.example_picture(built[stem]))


def test_variables_swap_the_models(running):
    """The gallery was started with MODEL_REPO_ID: it has the ViT and not the Swin that it was built with."""
    client = gradio_client.Client(running[build.GALLERY], verbose=False, analytics_enabled=False)
    [parameter] = [
        parameter
        for parameter in client.view_api(return_format="dict", print_info=False)["named_endpoints"][
            "/classifier_occlusion"
        ]["parameters"]
        if parameter["parameter_name"] == "model"
    ]
    assert parameter["type"]["enum"] == ["vit"]


def test_names_and_revision_come_from_the_variables(monkeypatch):
    monkeypatch.delenv("MODEL_REPO_ID", raising=False)
    monkeypatch.setenv("MODEL_REVISION", "abc")
    assert space.models(["vit"]) == ["vit"], "a revision of nothing"
    monkeypatch.setenv("MODEL_REPO_ID", " org/a,  org/b@def vit ")
    assert space.models(["x"]) == ["org/a@abc", "org/b@def", "vit"]
    monkeypatch.delenv("MODEL_REVISION")
    assert space.models(["x"]) == ["org/a", "org/b@def", "vit"]


def test_a_space_that_cannot_start_says_why(built, tmp_path):
    folder = tmp_path / "broken"
    shutil.copytree(built["ddpm"], folder)
    (folder / "space.py").unlink()
    with pytest.raises(boot.BootError, match="No module named 'space'"):
        with boot.running(folder):
            pass


def test_the_check_notices_a_space_that_reaches_out(tmp_path):
    (tmp_path / "app.py").write_text(
        "import http.server, os, socket, contextlib\n"
        "with contextlib.suppress(OSError):\n    socket.create_connection(('example.com', 80), 1)\n"
        "http.server.HTTPServer(('127.0.0.1', int(os.environ['GRADIO_SERVER_PORT'])),"
        " http.server.SimpleHTTPRequestHandler).serve_forever()\n"
    )
    with pytest.raises(boot.BootError, match="reached for the network.*example.com"):
        with boot.running(tmp_path):
            pass


# ---- ZeroGPU and SYSTEM=spaces ---------------------------------------------------------------------------------------


def test_on_zero_gpu_models_run_in_decorated_handlers_alone(built, running):
    """The stand-in refuses a model elsewhere; so all endpoints are called, and it has seen each with its duration."""
    log = running["gpu_log"]
    before = len(log.read_text().splitlines())
    called = []
    gallery = running[build.GALLERY]
    drawn = boot.call(gallery, "text_to_image_draw", None, picture=None)[0][0]["image"]
    called.append("text_to_image_draw")
    special = {"text_to_image_verify": {"picture": gradio_client.handle_file(drawn), "start": None}}
    for stem in (build.GALLERY, PULLED):
        client = gradio_client.Client(running[stem], verbose=False, analytics_enabled=False)
        for path in client.view_api(return_format="dict", print_info=False)["named_endpoints"]:
            name = path[1:]
            if name not in WITHOUT_MODEL:
                boot.call(running[stem], name, boot.example_picture(built[stem]), **special.get(name, {}))
                called.append(name)
    seen = [line.split() for line in log.read_text().splitlines()[before:]]
    assert sorted(name for name, _ in seen) == sorted(called) and len(called) >= 8
    whole = build.page_of(build.GALLERY).gpu_seconds
    asked = {name: int(seconds) for name, seconds in seen}
    assert (
        asked["segmentation_predict"] == space.SHORTEST <= asked["ddpm_draw"] < whole == asked["text_to_image_verify"]
    )


def test_errors_cross_from_the_gpu_as_sentences(running):
    client = gradio_client.Client(running[build.GALLERY], verbose=False, analytics_enabled=False)
    with pytest.raises(Exception, match="Seed must be a whole number"):
        client.predict(seed=0.5, api_name="/ddpm_draw")


def test_event_data_loses_what_cannot_travel(monkeypatch):
    """A click on a picture or a legend is an event with data, whose component has locks in it."""
    import pickle

    class Package:
        @staticmethod
        def GPU(duration):
            def decorate(task):
                def regular(*arguments):
                    return task(*pickle.loads(pickle.dumps(arguments)))

                def stream(*arguments):
                    yield from task(*pickle.loads(pickle.dumps(arguments)))

                return stream if inspect.isgeneratorfunction(task) else regular

            return decorate

    monkeypatch.setattr(space, "spaces", Package)
    monkeypatch.setattr(space, "ZERO_GPU", True)

    def clicked(event: gr.SelectData):
        return event.index

    def streamed(event: gr.SelectData):
        yield event.index

    with gr.Blocks() as demo:
        picture = gr.Image()
        picture.select(clicked, None, None, concurrency_id="a")
        picture.select(streamed, None, None, concurrency_id="a")
        picture.select(lambda: None, None, None)
    free = demo.fns[2].fn
    assert space.on_gpu(demo, 5) is demo
    data = {"index": [3, 4], "value": None}
    with pytest.raises(Exception, match="pickle"):
        pickle.dumps(gr.SelectData(picture, data))
    assert demo.fns[0].fn(gr.SelectData(picture, data)) == [3, 4]
    assert list(demo.fns[1].fn(gr.SelectData(picture, data))) == [[3, 4]]
    assert inspect.isgeneratorfunction(demo.fns[1].fn) and demo.fns[2].fn is free, "it runs no model"


def test_an_order_asks_for_a_gpu_in_proportion_to_its_steps_and_pictures(monkeypatch):
    asked = {}
    package = types.SimpleNamespace(GPU=lambda duration: lambda task: asked.setdefault(task, duration) and task)
    monkeypatch.setattr(space, "spaces", package)
    monkeypatch.setattr(space, "ZERO_GPU", True)

    def draw(request: gr.Request, label, count, steps): ...
    def program(label, count, steps, request: gr.Request = None): ...
    def verify(png): ...
    def look(picture): ...

    with gr.Blocks() as demo:
        order = [gr.Textbox(), gr.Slider(1, 16, 8, label="Pictures"), gr.Slider(1, 250, 20, label="Steps")]
        for task, inputs, lane in ((draw, order, wires.DRAW), (program, order, wires.DRAW),
                                   (verify, [order[0]], wires.DRAW), (look, [order[0]], wires.LOOK)):  # fmt: skip
            gr.Button().click(task, inputs, None, **wires.turns(lane))
    space.on_gpu(demo, 60)
    request = gr.Request()
    assert asked[draw](request, "x", 16, 250) == asked[program]("x", 16, 250, request) == 60
    assert asked[draw](request, "x", 8, 250) == 30
    assert asked[draw](request, "x", 1, 20) == asked[look] == space.SHORTEST
    assert asked[draw](request, "x", None, "many") == asked[verify] == 60


def test_our_folder_is_not_taken_for_zero_gpus_package(monkeypatch):
    """In the repository `import spaces` finds our folder: no ImportError to catch, and no GPU in it."""
    assert str(ROOT / "spaces") in list(space.spaces.__path__) and space.spaces.__file__ is None
    assert not space.ZERO_GPU
    with gr.Blocks() as demo:
        gr.Button().click(lambda: 1, None, None, concurrency_id="a")
    before = demo.fns[0].fn
    assert space.on_gpu(demo, 5).fns[0].fn is before


def test_without_an_init_the_real_package_wins_and_with_one_it_does_not(tmp_path):
    for room, init in (("with", True), ("without", False)):
        (tmp_path / room / "spaces").mkdir(parents=True)
        if init:
            (tmp_path / room / "spaces" / "__init__.py").write_text("")
    (tmp_path / "site" / "spaces").mkdir(parents=True)
    (tmp_path / "site" / "spaces" / "__init__.py").write_text("GPU = 1\n")

    def finds_gpu(room):
        code = "import spaces; print(hasattr(spaces, 'GPU'))"
        path = os.pathsep.join([str(tmp_path / room), str(tmp_path / "site")])
        environment = os.environ | {"PYTHONPATH": path}
        done = subprocess.run([sys.executable, "-P", "-c", code], env=environment, capture_output=True, text=True)
        return done.stdout.strip()

    assert (finds_gpu("without"), finds_gpu("with")) == ("True", "False")
    assert not (ROOT / "spaces" / "__init__.py").exists()


def test_the_trap_is_there_in_the_repository_and_not_in_a_space(built):
    """With SYSTEM=spaces gradio asks our folder for gradio_auto_wrap and dies: why no Space has one of that name.

    The Spaces above all ran with SYSTEM=spaces."""
    code = "import gradio as gr\nwith gr.Blocks(analytics_enabled=False):\n    gr.Button().click(print)\nprint('lives')"
    variables = os.environ | {"SYSTEM": "spaces", "SPACE_ID": "org/name", "PYTHONPATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=variables, capture_output=True, text=True, timeout=100
    )
    assert done.returncode != 0 and "gradio_auto_wrap" in done.stderr
    assert not [folder for folder in built.values() if (folder / "spaces").exists()]


# ---- to the Hub ------------------------------------------------------------------------------------------------------


def test_a_space_is_pushed_whole_and_once(hub, commands):
    done, folder = commands["push"]
    assert done.returncode == 0, done.stderr
    made = hub.about["spaces/org/demo"]
    assert (made.sdk, made.runtime["hardware"]["current"]) == ("gradio", "t4-small")
    here = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert hub.repos["spaces/org/demo"] == here
    assert commands["push again"][0].returncode == 0 and len(hub.commits["spaces/org/demo"]) == 1
    assert front_matter(folder)["suggested_hardware"] == "t4-small"


REFUSED = {402: "two ZeroGPU Spaces", 403: "may write to org", 401: "auth login", 422: "not pushed"}
# Pushes a folder again and again, each time refused with the next of these statuses, and prints what is said of it.
PUSH = """
import sys
from pathlib import Path

sys.path.insert(0, "spaces")
import build
from hub_models.publish import packing

for status in sys.argv[2:]:
    try:
        build.push(Path(sys.argv[1]), "org/refused")
    except packing.PushError as error:
        print(status, repr(str(error)))
"""


def test_a_refused_creation_is_explained_in_words(hub, built, monkeypatch, tmp_path):
    """Rows 49 and 51 of the faults: one sentence, what to do, no token."""
    monkeypatch.setattr(hub, "faults", [])
    for status in REFUSED:
        hub.fault("POST /api/repos/create", status=status, times=1)
    done = hub.python(PUSH, tmp_path, str(built["ddpm"]), *map(str, REFUSED), cwd=ROOT)
    said = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert list(said) == [str(status) for status in REFUSED], done.stderr
    for status, words in REFUSED.items():
        assert words in said[str(status)] and "repo_id org/refused" in said[str(status)]
    assert TOKEN not in done.stdout + done.stderr and "spaces/org/refused" not in hub.repos


def test_who_builds_and_is_refused_keeps_the_folder(hub, commands):
    done, folder = commands["refuse"]
    assert done.returncode == 1
    assert REFUSED[402] in done.stderr and "Traceback" not in done.stderr
    assert TOKEN not in done.stdout + done.stderr
    assert "spaces/org/refused" not in hub.repos and (folder / "app.py").is_file()


# ---- the API and MCP -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def documented(tiny):
    return api.document(tiny)


def test_docs_are_those_of_the_running_apps(documented):
    assert (ROOT / "docs" / "api.md").read_text() == documented, "docs/api.md is stale: make api"


def test_every_endpoint_and_parameter_is_named_typed_and_described(documented):
    sections = re.split(r"^### ", documented, flags=re.MULTILINE)[1:]
    assert len(sections) >= 10
    for section in sections:
        name, said = section.splitlines()[0].strip("`"), section.splitlines()[2]
        assert name.startswith(tuple(f"{stem}_" for stem in STEMS)) and len(said) > 20 and not said.startswith("|"), (
            name
        )
        rows = re.findall(r"^\| `(\w+)` \| (.*) \| (yes|no) \| (.*) \|$", section, re.MULTILINE)
        assert rows, name
        for parameter, kind, _, text in rows:
            assert kind and len(text) > 5 and not parameter.startswith(("parameter_", "value_")), f"{name}: {parameter}"
        assert "value_" not in section and "parameter_" not in section, f"{name}: something has no label"


def test_documented_curl_works_as_it_stands(documented, running, tmp_path):
    address = running[build.GALLERY]
    curls = [line for line in documented.splitlines() if "call/v2/ddpm_draw" in line]
    sent = run(curls[0].replace(api.ADDRESS, address).replace('"count": 4', '"count": 2, "steps": 1'))
    event = json.loads(sent)["event_id"]
    curls = [line for line in documented.splitlines() if line.endswith("ddpm_draw/$EVENT_ID")]
    answer = run(curls[0].replace(api.ADDRESS, address).replace("$EVENT_ID", event))
    assert "event: complete" in answer
    pictures, receipt = json.loads(answer.rpartition("data: ")[2])
    assert (
        len(pictures) == 2
        and [int(seed) for seed in receipt["seeds"]] == [7, 8]
        and receipt["labels"] == ["food", "food"]
    )


def run(line: str) -> str:
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def mcp_session(address: str, work):
    """What the coroutine function `work` returns for an initialised session of a real MCP client."""
    from mcp import ClientSession
    from mcp.client.streamable_http import streamablehttp_client

    async def talk():
        async with streamablehttp_client(f"{address}/gradio_api/mcp/") as (read, write, _):
            async with ClientSession(read, write) as session:
                await session.initialize()
                return await work(session)

    return asyncio.run(talk())


def test_mcp_client_lists_the_endpoints_and_calls_one():

    from apps import classifier, gallery
    from apps.kit import launch

    app = gallery.build(gallery.load_models(["classifier=vit"]))
    address = launch.launch(app, port=boot.free_port(), block=False, mcp=True).rstrip("/")
    picture = Image.open(ROOT / "apps" / "examples" / "classifier" / "10-doughnut-fluent.png").convert("RGB")
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    data = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()

    async def work(session):
        tools = (await session.list_tools()).tools
        seen = await session.call_tool("classifier_predict", {"picture": data})
        drawn = await session.call_tool("ddpm_draw", {"labels": ["food"], "count": 1, "seed": 3, "steps": 2})
        refused = await session.call_tool("ddpm_draw", {"seed": 0.5})
        return tools, seen, drawn, refused

    try:
        tools, seen, drawn, refused = mcp_session(address, work)
    finally:
        app.close(verbose=False)
    endpoints = {path[1:] for path in app.get_api_info()["named_endpoints"]}
    assert {tool.name for tool in tools} == endpoints
    for tool in tools:
        assert len(tool.description) > 20
        assert all(each.get("description") for each in tool.inputSchema["properties"].values()), tool.name
    [(label, _), *_] = classifier.load_models(["vit"])["vit"].predict([picture], 1)[0]
    assert not seen.isError and f"'{label}'" in seen.content[0].text
    assert not drawn.isError and "'seeds': ['3']" in drawn.content[-1].text
    assert refused.isError and "Seed must be a whole number" in refused.content[0].text


def test_spaces_serve_mcp_by_themselves(running):
    async def work(session):
        return {tool.name for tool in (await session.list_tools()).tools}

    assert {"gallery_ddpm_draw", "gallery_classifier_predict"} <= mcp_session(running[build.GALLERY], work)


@pytest.mark.parametrize("words", [["--mcp"], []])
def test_flag_turns_mcp_on(monkeypatch, words):
    from apps.kit import launch

    told = {}
    monkeypatch.setattr(launch, "launch", lambda demo, **options: told.update(options))
    monkeypatch.setattr(sys, "argv", ["apps.x", *words])
    launch.run(build.page_of("ddpm"), lambda names: dict.fromkeys(names), lambda models: None)
    assert told["mcp"] == bool(words)


def test_without_the_package_the_flag_says_what_to_install(monkeypatch):
    from apps.kit import launch

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "mcp" else found(name, *rest))
    with pytest.raises(SystemExit, match="pip install"):
        launch.launch(gr.Blocks(), mcp=True)
