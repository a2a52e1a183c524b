"""From a training to a Space that answers, for each stem with an app: train, publish, load by id, build, boot, call.

Each step is a process of its own, or several: nothing passes from one to the next but files and what the stand-in for
the Hub holds. A test is named for its step, its parameter for the stem.
"""

import os
import runpy
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gradio_client
import pytest
from children import run
from commands import run_each
from families import FAMILIES
from loopback_hub import loopback_hub

from hub_models.publish import packing

sys.path.insert(0, str(Path(__file__).parent.parent / "spaces"))  # scripts, in a folder that must not be a package

import boot
import build

pytestmark = pytest.mark.timeout(600)  # the first test of a step waits for that step of every stem

ROOT = Path(__file__).parent.parent
STEMS = [stem for stem in build.stems() if stem in FAMILIES]  # a page of several is made of what these make
PICTURE = ROOT / "apps" / "examples" / "classifier" / "10-doughnut-fluent.png"


class Failed:
    """In the place of a stem's result: at which step it fell, and why."""

    def __init__(self, step: str, why: object):
        self.step, self.why = step, why


def each(step: str, stems: Iterable[str], do: Callable[[str], object], before: dict | None = None) -> dict:
    """{stem: do(stem)}, two at a time; where it raises, or failed in a step before, a `Failed`."""

    def one(stem: str) -> object:
        if isinstance((before or {}).get(stem), Failed):
            return before[stem]
        try:
            return do(stem)
        except Exception as error:
            return Failed(step, error)

    stems = list(stems)
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(stems, pool.map(one, stems), strict=True))


def of(results: dict, stem: str):
    """The result of a stem; the test fails with the step and its last words where there is none."""
    if isinstance(results[stem], Failed):
        pytest.fail(f"{stem}: {results[stem].step}: {results[stem].why}", pytrace=False)
    return results[stem]


def command(hub, home: Path, name: str, arguments: dict[str, list]) -> Callable[[str], str]:
    """said(stem): what a script or module prints with those arguments; it raises where that failed.

    One process for all stems, whose Hub is the stand-in.
    """
    done = dict(zip(arguments, run_each(name, [*arguments.values()], hub.environment(home), ROOT), strict=True))

    def said(stem: str) -> str:
        assert done[stem].returncode == 0, done[stem].stderr[-3000:]
        return done[stem].stdout

    return said


# ---- the steps -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def hub():
    with loopback_hub() as hub:
        yield hub
    assert hub.leaked == [], "a token went to the object store"


def _train(stem: str, argv: list[str], cache: str) -> None:
    """`python -m training.<stem> …`."""
    os.environ["VITRAIL_CACHE"] = cache
    sys.argv = [stem, *argv]
    runpy.run_module(f"training.{stem}", run_name="__main__", alter_sys=True)


@pytest.fixture(scope="module")
def trained(home):
    """{stem: run folder} of the preset `tiny`, on top of an autoencoder and a CLIP of the same where it wants them."""
    runs = home / "runs"
    runs.mkdir()

    def train(stem: str) -> Path:
        argv = ["--preset", "tiny", "--cpu", "--output_dir", str(runs / stem)]
        for flag, part in FAMILIES[stem].parts.items():
            of(below, part)
            argv += [flag, str(runs / part / "export")]
        code, said = run(_train, stem, argv, str(home / "cache"), log=runs / f"{stem}.log")
        assert code == 0, f"status {code}: {said[-3000:]}"
        return runs / stem

    below: dict = {}
    below = each("train", sorted({part for stem in STEMS for part in FAMILIES[stem].parts.values()}), train)
    return each("train", STEMS, train)


@pytest.fixture(scope="module")
def published(trained, hub, home):
    """{stem: (repository id, commit)} on the Hub."""

    names = {stem: f"org/tiny-{stem.replace('_', '-')}" for stem in STEMS}
    runs = {stem: run for stem, run in trained.items() if not isinstance(run, Failed)}
    argv = {stem: [run, "--repo_id", names[stem]] for stem, run in runs.items()}
    said = command(hub, home / "publisher", "training.publish", argv)

    def publish(stem: str) -> tuple[str, str]:
        assert f"pushed to {hub.url}/{names[stem]}" in said(stem)
        return names[stem], hub.sha(names[stem])

    return each("publish", STEMS, publish, trained)


# Writes to <folder>/<stem> the bytes of what a model answers to a fixed picture, or to a fixed seed.
OPEN = """
import sys, traceback
from pathlib import Path
from PIL import Image

sys.path.insert(0, sys.argv[3])
from families import FAMILIES

picture, folder = Image.open(sys.argv[1]).convert("RGB"), Path(sys.argv[2])
for stem, name in zip(sys.argv[4::2], sys.argv[5::2]):
    try:
        model = FAMILIES[stem].load(name)
        (folder / stem).write_bytes(FAMILIES[stem].answer(model, picture))
        (folder / f"{stem}.sha256").write_text(model.weights_sha256)
    except Exception:
        (folder / f"{stem}.error").write_text(traceback.format_exc())
"""


@pytest.fixture(scope="module")
def opened(trained, published, hub, home):
    """{"hub" or "disk": {stem: (output, weights' sha256)}}: two interpreters, of ids alone and with folders."""
    names = {
        "hub": {stem: done[0] for stem, done in published.items() if not isinstance(done, Failed)},
        "disk": {stem: str(done / "export") for stem, done in trained.items() if not isinstance(done, Failed)},
    }

    def load(way: str) -> Path:
        folder = home / f"outputs-{way}"
        folder.mkdir()
        # From neither has the other anything: the cache is empty, and from disk there is no Hub.
        environment = {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9"} if way == "disk" else {}
        words = [word for pair in names[way].items() for word in pair]
        done = hub.python(
            OPEN, home / f"reader-{way}", str(PICTURE), str(folder), str(ROOT / "tests"), *words, **environment
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return folder

    folders = each("load", ["hub", "disk"], load)

    def read(way: str, stem: str) -> tuple[bytes, str]:
        folder = of(folders, way)
        assert not (folder / f"{stem}.error").exists(), (folder / f"{stem}.error").read_text()
        return (folder / stem).read_bytes(), (folder / f"{stem}.sha256").read_text()

    return {
        way: each(f"load from {way}", STEMS, lambda stem, way=way: read(way, stem), before)
        for way, before in (("hub", published), ("disk", trained))
    }


@pytest.fixture(scope="module")
def built(published, hub, home):
    """{stem: folder} of the Space with that model, pinned to its commit."""

    folders = {stem: home / "spaces" / stem for stem in STEMS}
    there = {stem: "@".join(done) for stem, done in published.items() if not isinstance(done, Failed)}
    argv = {stem: [stem, "--model", pinned, "--output", folders[stem]] for stem, pinned in there.items()}
    said = command(hub, home / "builder", "spaces/build.py", argv)

    def make(stem: str) -> Path:
        assert said(stem).startswith(f"built {folders[stem]}")
        return folders[stem]

    return each("build", STEMS, make, published)


@pytest.fixture(scope="module")
def answered(built, hub):
    """{stem: (answer, what the endpoint says that it returns)}: Spaces in clean processes, each called once."""
    variables = {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"}

    def ask(stem: str) -> tuple:
        endpoint = build.page_of(stem).call
        with boot.running(built[stem], environment=variables) as address:
            boot.open_page(address)
            boot.check_models(address)
            client = gradio_client.Client(address, verbose=False, analytics_enabled=False)
            about = client.view_api(return_format="dict", print_info=False)["named_endpoints"][f"/{endpoint}"]
            answer = boot.call(address, endpoint, PICTURE)
            return answer, about["returns"]

    return each("boot and call", STEMS, ask, built)


@pytest.mark.parametrize("stem", STEMS)
def test_a_tiny_training_is_published_whole(trained, published, hub, stem):
    name, sha = of(published, stem)
    export, held = of(trained, stem) / "export", hub.repos[name]
    assert len(hub.commits[name]) == 1 and hub.sha(name) == sha
    assert set(packing.files_to_push(export)) | {".gitattributes"} >= set(held)
    for path in held:
        if path.endswith(".safetensors"):
            assert held[path] == (export / path).read_bytes(), path
    assert any(path.endswith(".safetensors") for path in held) and "README.md" in held


@pytest.mark.parametrize("stem", STEMS)
def test_it_loads_by_its_id_with_the_same_output_to_the_bit(opened, stem):
    here, there = of(opened["disk"], stem), of(opened["hub"], stem)
    assert here[0] and here == there


@pytest.mark.parametrize("stem", STEMS)
def test_its_space_answers(published, built, answered, stem):
    name, sha = of(published, stem)
    folder, (answer, returns) = of(built, stem), of(answered, stem)
    front = build.split((folder / "README.md").read_text())[0]
    assert front["models"] == [name] and sha in front["preload_from_hub"][0]
    assert f"{name}@{sha}" in (folder / "app.py").read_text()
    besides = {also.partition("/")[0] for also in build.page_of(stem).also}
    carried = {path.parent.name for path in (folder / "hub_models").glob("weights/*/*")}
    assert carried <= besides, "they come from the Hub"
    answers = answer if len(returns) > 1 else [answer]
    assert len(answers) == len(returns) and all(each not in (None, "", [], {}) for each in answers)
