"""Push, pull and load end to end: the real clients, over HTTP, against the stand-in of tests/loopback_hub.py."""

import hashlib
import importlib
import json
import os
import pickle
import re
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.numpy
import tiny_models
from families import FAMILIES, PROJECT, run_of
from loopback_hub import READ_ONLY, TOKEN, blob_id, loopback_hub, sha256

from hub_models import store
from hub_models.publish import card, packing
from training import publish

# ---- what is pushed: an export of every stem, from tiny random models ------------------------------------------------


# Run in an interpreter without project code; prints one hash of all names, dtypes and values of each model.
OPEN = """
import hashlib, json, sys

def opened(line, place, name):
    known = {"place": place, "name": name}
    exec(line, known)
    rows = [f"{k} {v.dtype} {hashlib.sha256(v.numpy().tobytes()).hexdigest()}"
            for k, v in sorted(known["model"].state_dict().items())]
    return f"{len(rows)} {hashlib.sha256(repr(rows).encode()).hexdigest()}"
"""


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """exports(stem) -> its export folder, made once."""
    made, home = {}, tmp_path_factory.mktemp("exports")

    def of(stem: str):
        if stem not in made:
            made[stem] = home / stem / "export"
            publish.write_export(made[stem], FAMILIES[stem].save, run_of(stem))
        return made[stem]

    return of


@pytest.fixture
def model(tmp_path):
    """A folder that could be pushed, of a few hundred bytes."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "x"}')
    (folder / "README.md").write_text("---\nlibrary_name: transformers\nlicense: mit\n---\n# A model\n")
    safetensors.numpy.save_file({"w": np.arange(600, dtype=np.float32)}, folder / "model.safetensors")
    packing.write_manifest(folder)
    return folder


def fresh(model):
    """Weights that no test before has sent."""
    values = np.random.default_rng(time.time_ns()).normal(size=600).astype(np.float32)
    safetensors.numpy.save_file({"w": values}, model / "model.safetensors")
    with (model / "README.md").open("a") as card:
        card.write(f"Weights of {time.time_ns()}.\n")
    packing.write_manifest(model)


# ---- the Hub, and a process that talks to it -------------------------------------------------------------------------

CLIENT = """
import json, sys, time
from hub_models import store
from hub_models.publish import patience, upload
patience.WAITS_SECONDS, patience.CALL_SECONDS, patience.ATTEMPTS = (0.05, 0.1), 0.7, 3
can = {"push": upload.push, "resolve": store.resolve}
for line in sys.stdin:
    do, args, options = json.loads(line)
    began = time.monotonic()
    try:
        answer = {"answer": str(can[do](*args, **options))}
    except store.CheckpointError as error:
        answer = {"error": str(error)}
    print(json.dumps(answer | {"seconds": time.monotonic() - began}), flush=True)
"""


@pytest.fixture(scope="module")
def running():
    with loopback_hub() as hub:
        yield hub


@pytest.fixture
def hub(running):
    """The stand-in with nothing wrong."""
    running.faults.clear()
    running.asked.clear()
    running.lfs, running.part_bytes, running.page_size = True, None, 1000
    yield running
    running.faults.clear()
    assert running.leaked == [], "a token went to the object store"


@pytest.fixture(scope="module")
def client(running, tmp_path_factory):
    """client("push" or "resolve", *args, **options) -> .answer or .error, .seconds: one process, patient as a test."""
    home, log = tmp_path_factory.mktemp("home"), (tmp_path_factory.mktemp("log") / "stderr").open("w+")
    # What a pull waits for a server is the client's own business, and has its variables.
    waits = {"HF_HUB_ETAG_TIMEOUT": "1", "HF_HUB_DOWNLOAD_TIMEOUT": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", CLIENT],
        env=running.environment(home) | waits,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
    )

    def ask(do: str, *args, **options) -> SimpleNamespace:
        process.stdin.write(json.dumps([do, [str(a) for a in args], options]) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
        assert line, log.seek(0) or log.read()
        assert TOKEN not in line
        return SimpleNamespace(**{"answer": None, "error": None} | json.loads(line))

    ask.home = home
    yield ask
    process.stdin.close()
    process.wait(10)
    log.seek(0)
    assert TOKEN not in log.read()
    log.close()


@pytest.fixture
def name(request):
    """A repository id of this test alone."""
    return "org/" + hashlib.sha1(request.node.nodeid.encode()).hexdigest()[:12]


# ---- pushing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["lfs", "regular", "parts"])
def test_one_commit_by_each_way_of_uploading_and_no_second_one(hub, client, model, name, way):
    fresh(model)
    hub.lfs, hub.part_bytes, hub.page_size = way != "regular", 1000 if way == "parts" else None, 2
    assert client("push", model, name).answer == f"{hub.url}/{name}"
    assert hub.commits[name] == [packing.files_to_push(model)]
    assert {n: c for n, c in hub.repos[name].items()} == {
        n: (model / n).read_bytes() for n in packing.files_to_push(model)
    }
    assert (sha256((model / "model.safetensors").read_bytes()) in hub.objects) or way == "regular"
    assert hub.count("^PUT") == {"lfs": 1, "regular": 0, "parts": 3}[way]
    before = hub.sha(name)
    assert client("push", model, name).answer
    assert hub.sha(name) == before and len(hub.commits[name]) == 1


def test_what_changed_goes_and_weights_that_are_gone_are_deleted(hub, client, model, name):
    client("push", model, name)
    hub.commit(name, {"notes.md": b"written on the Hub", "LICENSE": b"mine"})
    (model / "model.safetensors").rename(model / "model-00001-of-00001.safetensors")
    (model / "config.json").write_text('{"model_type": "y"}')
    packing.write_manifest(model)
    assert client("push", model, name).answer
    kept = {"notes.md", "LICENSE"}
    assert set(hub.repos[name]) == {*packing.files_to_push(model), *kept}
    assert hub.commits[name][-1] == sorted(
        ["config.json", "manifest.json", "model-00001-of-00001.safetensors", "model.safetensors"]
    )


def test_a_pull_request_leaves_main_alone_and_is_opened_once(hub, client, model, name):
    first = client("push", model, name, create_pr=True)
    assert first.answer == f"{hub.url}/{name}/discussions/1" and hub.repos[name] == {}
    assert sorted(hub.at(name, "refs/pr/1")[1]) == packing.files_to_push(model)
    assert client("push", model, name, create_pr=True).answer == first.answer
    (model / "config.json").write_text('{"model_type": "y"}')
    packing.write_manifest(model)
    hub.fault("POST .*/commit/", lost=True, times=1)  # the second is opened, but the answer is lost
    assert client("push", model, name, create_pr=True).answer == f"{hub.url}/{name}/discussions/2"
    assert len(hub.about[name].requests) == 2


def test_private_is_private(hub, client, model, name, tmp_path):
    client("push", model, name, private=True)
    assert hub.about[name].private and client("resolve", "clip", name).answer
    pull = (
        "from hub_models import store\ntry:\n    store.resolve('clip', %r)\nexcept store.CheckpointError as e: print(e)"
    )
    assert "HF_TOKEN" in hub.python(pull % name, tmp_path / "stranger", HF_TOKEN="").stdout


# Row 44


def test_only_what_is_allowed_goes_and_the_rest_is_told(hub, client, model, name, capsys):
    clean = packing.files_to_push(model)
    for left in [
        ".env",
        ".git/config",
        "optimizer.bin",
        "state.pt",
        "x.pkl",
        "model.ckpt",
        "checkpoint-5/model.safetensors",
    ]:
        (model / left).parent.mkdir(exist_ok=True)
        (model / left).write_text("SECRET")
    assert client("push", model, name).answer
    assert sorted(hub.repos[name]) == clean
    assert publish.show(model, "model") == clean
    told = capsys.readouterr().err
    assert "stays here: .env, .git/, checkpoint-5/, model.ckpt, optimizer.bin, state.pt, x.pkl" in told
    (model / "vocab.txt").symlink_to("/etc/passwd")
    assert "vocab.txt is a link" in client("push", model, name).error
    assert sorted(hub.repos[name]) == clean


@pytest.mark.parametrize(
    ("file", "secret", "said"),
    [
        ("README.md", "hf_" + "aB3dE6gH9jK2mN5pQ8" * 2, "a Hugging Face token in README.md, line 6"),
        ("config.json", TOKEN, "your own Hugging Face token in config.json"),
        ("config.json", "github_pat_" + "a1" * 20, "a GitHub token"),
        ("config.json", "AKIA" + "Z7" * 8, "an AWS key"),
        ("vocab.txt", "-----BEGIN RSA PRIVATE KEY-----", "a private key in vocab.txt"),
        ("sk.txt", "sk-ant-" + "x9-" * 20, "an OpenAI or Anthropic key"),
        ("model.safetensors", "hf_" + "x" * 34, "a Hugging Face token in model.safetensors"),
    ],
)
def test_secrets_stop_a_push_before_it_asks_anything(hub, client, model, name, file, secret, said):
    if file.endswith(".safetensors"):
        safetensors.numpy.save_file({"w": np.ones(3)}, model / file, metadata={"by": secret})
    elif file.endswith(".json"):
        (model / file).write_text(json.dumps({"note": secret}))
    else:
        with (model / file).open("a") as text:
            text.write(f"{secret}\n")
    packing.write_manifest(model)
    error = client("push", model, name).error
    assert said in error and secret not in error and "revoke" in error
    assert hub.asked == []


# Rows 45 and 46

ENDPOINTS = {
    "create": "POST /api/repos/create",
    "info": r"GET /api/models/[^/]+/[^/]+$",
    "tree": "GET .*/tree/",
    "card": "POST /api/validate-yaml",
    "preupload": "POST .*/preupload/",
    "batch": "POST .*/objects/batch",
    "object": "PUT /",
    "verify": "POST /verify/",
    "commit": "POST .*/commit/",
}


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_passing_failures_are_tried_again_and_others_end_after_a_few_times(hub, client, model, name, endpoint):
    fresh(model)
    for status in (500, 503):
        hub.fault(ENDPOINTS[endpoint], status=status, times=1)
    assert client("push", model, name).answer == f"{hub.url}/{name}"
    assert len(hub.commits[name]) == 1
    asked = hub.count(ENDPOINTS[endpoint])

    fresh(model)
    hub.asked.clear()
    hub.fault(ENDPOINTS[endpoint], status=429, headers={"ratelimit": '"api";r=0;t=0'})
    done = client("push", model, name)
    assert "429" in done.error and "3 times" in done.error and done.error.count("\n") == 0
    assert f"repeat with: python -m training.publish {model} --repo_id {name}" in done.error
    assert hub.count(ENDPOINTS[endpoint]) == 3 <= asked
    assert len(hub.commits[name]) == 1
    store.verify(model, manifest_required=True)  # nothing is lost
    hub.faults.clear()
    assert client("push", model, name).answer and len(hub.commits[name]) == 2


def test_the_hubs_own_waiting_times_are_kept(hub, client, model, name):
    hub.fault("POST .*/commit/", status=429, headers={"Retry-After": "1"}, times=1)
    hub.fault("POST /api/repos/create", status=503, headers={"Retry-After": "1"}, times=1)
    done = client("push", model, name)
    assert done.answer and done.seconds >= 2
    hub.fault("POST /api/repos/create", status=429, headers={"Retry-After": "3600"})
    done = client("push", model, name)
    assert "asks to wait 3600 s" in done.error and done.seconds < 1


@pytest.mark.parametrize("endpoint", ["create", "tree", "object", "commit"])
def test_a_server_that_hangs_is_not_waited_for(hub, client, model, name, endpoint):
    fresh(model)
    hub.fault(ENDPOINTS[endpoint], delay=60)
    done = client("push", model, name)
    assert "no answer in time" in done.error and "repeat with" in done.error
    assert done.seconds < 12 and hub.count(ENDPOINTS[endpoint]) == 3


def test_a_pull_does_not_wait_for_a_server_that_hangs_and_serves_the_cache(hub, client, model, name):
    client("push", model, name)
    hub.fault("(GET|HEAD) ", delay=60)
    done = client("resolve", "clip", name)
    assert "could not be pulled" in done.error or "can't be reached" in done.error
    assert done.seconds < 30
    hub.faults.clear()
    here = client("resolve", "clip", name).answer
    hub.fault("(GET|HEAD) ", delay=60)
    done = client("resolve", "clip", name)
    assert done.answer == here and done.seconds < 10


# Rows 47 and 48


def test_a_commit_whose_answer_is_lost_or_late_is_made_once(hub, client, model, name):
    hub.fault(ENDPOINTS["commit"], lost=True, times=1)
    assert client("push", model, name).answer
    assert len(hub.commits[name]) == 1 and hub.count(ENDPOINTS["commit"]) == 1, "it was there, and looked for first"
    before = hub.sha(name)
    assert client("push", model, name).answer and hub.sha(name) == before
    fresh(model)
    hub.fault(ENDPOINTS["commit"], delay=1.2, times=1)  # comes to it when the client has long asked again
    assert client("push", model, name).answer
    time.sleep(1)
    assert len(hub.commits[name]) == 2


def test_somebody_elses_commit_meanwhile_is_reported_and_not_overwritten(hub, client, model, name):
    client("push", model, name)
    fresh(model)
    old = hub.repos[name]["model.safetensors"]
    hub.fault(ENDPOINTS["commit"], stale=True, times=1)
    error = client("push", model, name).error
    assert "412" in error and "somebody else" in error and "repeat with" in error
    assert hub.repos[name]["model.safetensors"] == old and "theirs.txt" in hub.repos[name]
    assert client("push", model, name).answer, "a second try stands on what is there now"
    assert hub.repos[name]["model.safetensors"] == (model / "model.safetensors").read_bytes()
    assert "theirs.txt" in hub.repos[name]


# Rows 49 and 51

PUSH = """
import sys
from hub_models import store
from hub_models.publish import upload
try:
    print(upload.push(sys.argv[1], "org/forbidden", repo_type=sys.argv[2]))
except store.CheckpointError as error:
    print("refused:", error)
"""


@pytest.mark.parametrize(
    ("token", "said"),
    [
        ("", "no token"),
        ("hf_" + "WrongWrong" * 3, "401"),
        (READ_ONLY, "403"),
        ("an-old-kind-of-token-123", "401"),
        ("hf_\u017c\u00f3\u0142\u0107", "a character that none"),
        ("hf_abc hf_def", "a character that none"),
    ],
)
def test_a_token_that_will_not_do_is_one_line_that_does_not_show_it(hub, model, tmp_path, token, said):
    done = hub.python(PUSH, tmp_path / "home", str(model), "model", HF_TOKEN=token)
    assert done.stdout.startswith("refused: org/forbidden was not pushed") and done.stdout.count("\n") == 1
    assert said in done.stdout and "hf auth login" in done.stdout or "write access" in done.stdout
    assert not token or token not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("status", [402, 403])
def test_a_space_that_may_not_be_made_is_explained(hub, client, tmp_path, name, status):
    space = tmp_path / "space"
    space.mkdir()
    (space / "app.py").write_text("import gradio\n")
    front = "title: T\nemoji: 🎨\ncolorFrom: red\ncolorTo: pink\nsdk: gradio\nsdk_version: 6.31.0\napp_file: app.py"
    (space / "README.md").write_text(f"---\n{front}\n---\n# T\n")
    hub.fault("POST /api/repos/create", status=status, message="Free accounts are limited")
    error = client("push", space, name, repo_type="space", again="python spaces/build.py t").error
    assert f"{status}: " in error and "ZeroGPU" in error and "PRO" in error and "Free accounts are limited" in error
    assert error.endswith("repeat with: python spaces/build.py t")
    hub.faults.clear()
    assert client("push", space, name, repo_type="space").answer == f"{hub.url}/spaces/{name}"
    assert hub.about[f"spaces/{name}"].sdk == "gradio" and set(hub.repos[f"spaces/{name}"]) == {"app.py", "README.md"}


def test_the_hub_refuses_a_card_and_so_does_the_push_before_it(hub, client, model, name):
    (model / "README.md").write_text("---\nlibrary_name: transformers\ndatasets:\n- null\n---\n")
    assert "datasets[0] is null" in client("push", model, name).error and hub.asked == []


def test_a_file_that_the_hub_leaves_out_or_alters_is_noticed(hub, client, model, name):
    client("push", model, name)
    del hub.repos[name]["config.json"]
    hub.repos[name]["theirs"] = b""
    hub.fault(ENDPOINTS["tree"], times=0)
    assert client("push", model, name).answer and "config.json" in hub.repos[name]
    fresh(model)
    content = (model / "model.safetensors").read_bytes()
    hub.fault(r"PUT /", status=200, times=1)  # says it has stored it
    error = client("push", model, name).error
    assert "repeat with" in error and hub.repos[name]["model.safetensors"] != content


# ---- pulling: rows 29, 30, 50 ----------------------------------------------------------------------------------------


def test_a_damaged_download_is_a_checksum_error(hub, client, model, name):
    fresh(model)
    client("push", model, name)
    hub.fault(f"GET /{sha256((model / 'model.safetensors').read_bytes())}", wrong=True, times=1)
    error = client("resolve", "clip", name).error
    assert "model.safetensors came damaged" in error and "checksum" in error
    blob = re.search(r"delete (\S+) and try again", error)[1]
    assert blob.startswith(str(client.home))
    os.unlink(blob)
    assert client("resolve", "clip", name).answer, "what it says to do helps"


def test_a_small_file_is_checked_too_and_a_cut_body_is_asked_for_again(hub, client, model, name):
    hub.lfs = False
    fresh(model)
    (model / "config.json").write_text(json.dumps({"model_type": "x", "salt": str(time.time_ns())}))
    packing.write_manifest(model)
    client("push", model, name)
    hub.fault("GET /org/.*/resolve/.*/model.safetensors", cut=100, times=1)
    hub.fault("GET /org/.*/resolve/.*/config.json", wrong=True, times=1)
    error = client("resolve", "clip", name).error
    assert "config.json came damaged" in error
    assert hub.count("GET .*/model.safetensors") == 2
    assert blob_id((model / "config.json").read_bytes()) in error


FOREIGN = """
import sys
from apps import classifier as app
models = app.load_models(sys.argv[1:])
for name, model in models.items():
    print(name, "|", model if isinstance(model, Exception) else model.weights_sha256)
demo = app.build(models)
import json
print("PAGE", json.dumps(demo.get_config_file(), default=str))
"""


@pytest.mark.timeout(400)
def test_foreign_weights_degrade_the_page_and_a_hub_that_is_down_leaves_cache_and_bundle(
    hub, client, exports, tmp_path
):
    """Rows 29 and 30, with what comes from the Hub: each kind of wrong is named on a page that stands."""

    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "exploded"),)

    sound = {n: (exports("classifier") / n).read_bytes() for n in packing.files_to_push(exports("classifier"))}
    bad = bytearray(sound["model.safetensors"])
    bad[-2:] = b"\x00\x7c"  # Inf in half precision
    shapes = safetensors.numpy.load(sound["model.safetensors"])
    shapes["head.weight"] = shapes["head.weight"][:2]
    wrong = {
        "org/pointer": {"model.safetensors": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"},
        "org/html": {"model.safetensors": b"<!DOCTYPE html><html>Not found</html>"},
        "org/infinite": {"model.safetensors": bytes(bad)},
        "org/shapes": {"model.safetensors": safetensors.numpy.save(shapes, {"format": "pt"})},
        "org/pickled": {"model.safetensors": None, "pytorch_model.bin": pickle.dumps(Bomb())},
        "org/disguised": {"model.safetensors": pickle.dumps(Bomb())},
        "org/cut": {"model.safetensors": sound["model.safetensors"][:-10]},
    }
    for name, files in wrong.items():
        hub.create(name)
        hub.commit(name, {n: c for n, c in (sound | files).items() if c is not None and n != "manifest.json"})
    hub.create("org/sound")
    hub.commit("org/sound", sound)
    names = ["org/sound", *wrong, "org/absent"]
    done = hub.python(FOREIGN, tmp_path / "home", *names)
    assert done.returncode == 0, done.stderr
    said = dict(
        line.split(" | ", 1) for line in done.stdout.splitlines() if " | " in line and not line.startswith("PAGE")
    )
    expected = {
        "org/pointer": "git-lfs pointer",
        "org/html": "HTML page",
        "org/infinite": "NaN or Inf",
        "org/shapes": "head.weight",
        "org/pickled": "holds no .safetensors",
        "org/disguised": "pickle",
        "org/cut": "cut short",
        "org/absent": "org/absent",
    }
    for name, words in expected.items():
        assert words in said[name], (name, said[name])
    assert said["org/sound"] == store.weights_sha256(exports("classifier"))
    assert not (tmp_path / "exploded").exists() and hub.count("pytorch_model.bin") == 0
    page = done.stdout.partition("PAGE")[2]
    assert "git-lfs pointer" in page and "org/shapes" in page, "the page names what is wrong"

    # Row 30: nobody listens there any more.
    done = hub.python(FOREIGN, tmp_path / "home", "org/sound", "vit", "org/unknown", HF_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 0, done.stderr
    lines = dict(line.split(" | ", 1) for line in done.stdout.splitlines() if " | " in line[:40])
    assert lines["org/sound"] == said["org/sound"] and re.fullmatch(r"[0-9a-f]{64}", lines["vit"])
    assert "can't be reached" in lines["org/unknown"]


def test_a_hub_that_answers_503_to_everything_leaves_the_cache(hub, client, model, name):
    client("push", model, name)
    here = client("resolve", "clip", name).answer
    hub.fault(".", status=503)
    done = client("resolve", "clip", name)
    assert done.answer == here and done.seconds < 5
    assert "can't be reached" in client("resolve", "clip", "org/unknown").error


# ---- stock code opens what was pushed --------------------------------------------------------------------------------

OURS = """
import importlib, json, sys, torch
for stem, name in zip(sys.argv[1::2], sys.argv[2::2]):
    model = importlib.import_module(f"hub_models.{stem}").load(name, device="cpu")
    print(stem, model.weights_sha256)
"""
RESOLVE = """
import sys
from hub_models import store
for stem, name in zip(sys.argv[1::2], sys.argv[2::2]):
    print(stem, store.weights_sha256(store.resolve(stem, name)))
"""
PUBLISH = "import sys; from training import publish; publish.main(sys.argv[1:])"


@pytest.fixture(scope="module")
def published(running, exports, tmp_path_factory):
    """{stem: repository id} of an export of every stem, published by the command."""
    home, ids = tmp_path_factory.mktemp("publisher"), {stem: f"org/tiny-{stem.replace('_', '-')}" for stem in FAMILIES}
    code = "import sys; from training import publish\nfor a in sys.argv[1:]: publish.main(a.split())"
    lines = [f"{exports(stem)} --repo_id {name}" for stem, name in ids.items()]
    running.faults.clear()
    done = running.python(code, home, *lines)
    assert done.returncode == 0 and done.stdout.count("pushed to") == len(ids), done.stderr
    return ids


@pytest.fixture(scope="module")
def opened(running, published, tmp_path_factory):
    """{stem: what stock code found in its repository}: one interpreter without project code, one for what is the
    project's own class."""
    code = (
        OPEN + "for stem, (line, name) in json.loads(sys.argv[1]).items(): print(stem, opened(line, 'hf-hub:', name))"
    )
    found = {}
    for own in (False, True):
        lines = {stem: family.stock[family.library] for stem, family in FAMILIES.items()
                 if (family.library == PROJECT) == own}  # fmt: skip
        asked = {stem: (line, published[stem]) for stem, line in lines.items()}
        place = None if own else tmp_path_factory.mktemp("elsewhere")  # where no code of ours is
        there = running.python(code, tmp_path_factory.mktemp("home"), json.dumps(asked), cwd=place)
        assert there.returncode == 0, there.stderr
        found |= dict(line.split(" ", 1) for line in there.stdout.splitlines()[-len(lines) :])
    return found


@pytest.mark.timeout(400)
@pytest.mark.parametrize("library", sorted({family.library for family in FAMILIES.values()}))
def test_stock_code_opens_what_was_pushed(hub, published, opened, exports, library):
    lines = {stem: family.stock[library] for stem, family in FAMILIES.items() if family.library == library}
    known: dict = {}
    exec(OPEN, known)
    for stem, line in lines.items():
        assert opened[stem] == known["opened"](line, "local-dir:", str(exports(stem))), stem
        card = hub.repos[published[stem]]["README.md"].decode()
        assert f'load("{published[stem]}")' in card and "org/name" not in card


@pytest.mark.timeout(400)
def test_the_contract_opens_every_stem_by_its_repository_id(hub, published, exports, tmp_path):
    done = hub.python(OURS, tmp_path / "home", *(word for pair in published.items() for word in pair))
    assert done.returncode == 0, done.stderr
    said = dict(line.split() for line in done.stdout.splitlines() if line.split(" ")[0] in published)
    for stem in published:
        ours = importlib.import_module(f"hub_models.{stem}").load(str(exports(stem)), device="cpu")
        assert said[stem] == ours.weights_sha256, stem
    # Once pulled they are there with no Hub at all, pinned or not.
    ids = [w for stem, n in published.items() for w in (stem, f"{n}@{hub.sha(n)}" if stem == "ddpm" else n)]
    off = hub.python(RESOLVE, tmp_path / "home", *ids, HF_HUB_OFFLINE="1", HF_ENDPOINT="http://127.0.0.1:9")
    assert dict(line.split() for line in off.stdout.splitlines()) == said, off.stderr


LOAD_DATASET = """
import sys
from datasets import load_dataset
data = load_dataset(sys.argv[1])
print({split: len(rows) for split, rows in data.items()}, sorted(data["train"].column_names))
row = data["train"][0]
print(row["image"].size, {k: getattr(v, "size", v) for k, v in row.items() if k in ("name", "label")})
"""


def test_a_data_set_is_published_the_same_way_and_load_dataset_opens_it(hub, tmp_path):
    from datasets import load_dataset

    folder = "tests/data/emoji-sample"
    arguments = [folder, "--repo_type", "dataset", "--repo_id", "org/emoji"]
    hub.fault(ENDPOINTS["commit"], status=403)
    failed = hub.python(PUBLISH, tmp_path / "home", *arguments)
    assert failed.returncode == 1 and "repeat with: python -m training.publish " + folder in failed.stderr
    assert "--repo_type dataset" in failed.stderr and "Traceback" not in failed.stderr
    hub.faults.clear()
    for _ in range(2):
        done = hub.python(PUBLISH, tmp_path / "home", *arguments)
        assert done.stdout.endswith(f"pushed to {hub.url}/datasets/org/emoji\n"), done.stderr
    assert len(hub.commits["datasets/org/emoji"]) == 1
    there = hub.python(LOAD_DATASET, tmp_path / "other", "org/emoji", cwd=tmp_path)
    assert there.returncode == 0, there.stderr
    data = load_dataset(folder, cache_dir=str(tmp_path / "cache"))
    assert there.stdout.splitlines()[-2].startswith(str({split: len(rows) for split, rows in data.items()}))
    assert data["train"][0]["name"] in there.stdout


def test_scenes_with_masks_are_pushed_by_their_script_and_load(hub, tmp_path):
    folder = tmp_path / "scenes"
    command = "import sys, tyro; from training.data import scenes as s; s.main(tyro.cli(s.Config, args=sys.argv[1:]))"
    flags = ["--materialise", "3", "--output-dir", str(folder), "--set", "train", "validation", "--dataset-name",
             "emoji-sample", "--resolution", "32", "--push-to-hub", "--hub-dataset-id", "org/scenes"]  # fmt: skip
    done = hub.python(command, tmp_path / "home", *flags)
    assert done.returncode == 0 and "pushed to" in done.stdout, done.stderr
    assert len(hub.commits["datasets/org/scenes"]) == 1
    code = LOAD_DATASET.replace('"name", "label"', '"label", "x"')
    there = hub.python(code, tmp_path / "other", "org/scenes", cwd=tmp_path)
    assert there.returncode == 0 and "{'train': 3, 'validation': 3}" in there.stdout, there.stderr
    assert "'label': (32, 32)" in there.stdout


# ---- the commands ----------------------------------------------------------------------------------------------------


@pytest.mark.timeout(400)
def test_a_training_pushes_at_its_end_and_a_failed_push_loses_nothing(hub, tmp_path):
    run_dir, code = tmp_path / "run", "import sys; from training import classifier; classifier.main(sys.argv[1:])"
    flags = [
        "--preset",
        "tiny",
        "--cpu",
        "--output_dir",
        str(run_dir),
        "--push_to_hub",
        "--hub_model_id",
        "org/trained",
    ]
    hub.fault(ENDPOINTS["commit"], status=403, message="Forbidden: read only")
    failed = hub.python(code, tmp_path / "home", *flags)
    assert failed.returncode == 1 and "is kept" in failed.stderr and "Traceback" not in failed.stderr, failed.stderr
    store.verify(run_dir / "export", manifest_required=True)
    line = re.search(r"repeat with: python -m training\.publish (.*)", failed.stderr)[1]
    hub.faults.clear()
    done = hub.python(PUBLISH, tmp_path / "home", *line.split())
    assert f"pushed to {hub.url}/org/trained" in done.stdout, done.stderr
    pulled = hub.repos["org/trained"]
    assert pulled["model.safetensors"] == (run_dir / "export/model.safetensors").read_bytes()
    assert str(tmp_path) not in pulled["README.md"].decode() + pulled["run.json"].decode()


def test_licences_that_exclude_each_other_stop_and_are_settled(hub, tmp_path, capsys, monkeypatch):
    export = tmp_path / "export"
    run = run_of("clip", base_model="org/base", base_license="cc-by-nc-4.0", license="cc-by-sa-4.0")
    publish.write_export(export, tiny_models.dual_encoder, run)
    assert "No licence is stated for these weights yet: its parts' licences" in (export / "README.md").read_text()
    with pytest.raises(SystemExit, match="exclude each other.*--license ID"):
        publish.main([str(export), "--dry_run"])
    publish.main([str(export), "--dry_run", "--license", "cc-by-nc-sa-4.0"])
    with pytest.raises(SystemExit, match="license_name"):
        publish.main([str(export), "--dry_run", "--license", "other"])
    before = {path: path.read_bytes() for path in export.rglob("*") if path.is_file()}
    done = hub.python(
        PUBLISH, tmp_path / "home", str(export), "--repo_id", "org/settled", "--license", "cc-by-nc-sa-4.0"
    )
    assert done.returncode == 0, done.stderr
    assert "license: cc-by-nc-sa-4.0\n" in hub.repos["org/settled"]["README.md"].decode()
    assert {path: path.read_bytes() for path in export.rglob("*") if path.is_file()} == before
    pushing = run | {"config": {"push_to_hub": True}, "steps": 0}
    with pytest.raises(SystemExit, match="exclude each other.*--hub_license ID"):
        publish.write_export(tmp_path / "preflight", tiny_models.dual_encoder, pushing)
    said = publish.licensed(run | {"config": {"hub_license": "cc-by-nc-sa-4.0"}})
    assert said["license"] == "cc-by-nc-sa-4.0" and said["license_settled"]


def test_a_run_that_goes_on_from_another_one_says_both(tmp_path):
    config = {"dataset_name": "emoji", "resolution": 32}
    first = run_of(
        "clip", config=config, hours=1.5, steps=10, images_seen=80, command="python -m training.clip --seed 1"
    )
    publish.write_export(tmp_path / "one", tiny_models.dual_encoder, first)
    for name, base in (("two", "one"), ("three", "two")):
        publish.write_export(tmp_path / name, tiny_models.dual_encoder, first | {"base_model": str(tmp_path / base)})
    run = json.loads((tmp_path / "three" / "run.json").read_text())
    assert [stage["steps"] for stage in run["earlier"]] == [10, 10] and card.in_all(run)["hours"] == 4.5
    other = first | {"base_model": str(tmp_path / "one"), "config": config | {"dataset_name": "mine"}}
    assert "earlier" not in publish.with_stages(other), "fine-tuned on other data"
    assert (
        publish.with_stages(first) == first
        and publish.with_stages(first | {"base_model": "org/x"}).get("earlier") is None
    )


def test_the_licence_of_the_base_model_comes_from_its_card(hub, tmp_path):
    code = "import sys; from training import publish; print(*[publish.base_license('clip', b) for b in sys.argv[1:]])\n"
    code += "publish.check_push({'license': 'mit'})"
    for name, licence in {"org/mit": "mit", "org/two": "[mit, apache-2.0]"}.items():
        hub.create(name)
        hub.commit(name, {"README.md": f"---\nlicense: {licence}\n---\n".encode()})
    (tmp_path / "local").mkdir()
    (tmp_path / "local/README.md").write_text("---\nlicense: openrail\n---\n")
    done = hub.python(code, tmp_path / "home", "org/mit", "org/two", "org/none", str(tmp_path / "local"), HF_TOKEN="")
    assert done.stdout.strip() == "mit mit AND apache-2.0 None openrail", done.stderr
    assert done.returncode == 1 and done.stderr.endswith(
        "there is no token; run `hf auth login`, or publish the run later\n"
    )
    with pytest.raises(SystemExit, match="HF_HUB_OFFLINE"):  # as it is set in this process
        publish.write_export(
            tmp_path / "e", tiny_models.dual_encoder, run_of("clip", config={"push_to_hub": True}, steps=0)
        )
    assert not (tmp_path / "e").exists(), "before the first step, not after the last"
