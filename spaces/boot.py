"""Start built Spaces as the Hub would, away from the repository, and ask each of them once.

    python spaces/boot.py                     # every Space whose weights are here (make spaces)
    python spaces/boot.py ddpm gallery        # these
    python spaces/boot.py ddpm --model runs/mine/export
    python spaces/boot.py --fresh_venv never  # leave out the fresh environment, whatever the lock

Each is a process of its own: in another folder, with nothing of the repository to import, and without a network (a
connection to anything but this machine fails, and fails the check). Its page is opened, and its endpoint `call` is
called by gradio_client. One Space runs in a fresh environment, too, made of its own requirements.txt, when the lock has
changed since that was last done: some 6 GB, removed afterwards.
"""

import argparse
import contextlib
import hashlib
import html
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # as a script, it has its own folder there alone
sys.path.insert(0, str(Path(__file__).resolve().parent))

import gradio_client
from PIL import Image

import build
from hub_models import store

FRESH = "gallery"  # the Space that is tried in a fresh environment: it needs what any page needs
SECONDS = 300  # to start: ten where nothing else runs
SMALLEST = ("count", "steps")  # parameters that a check takes at their least

# What the process imports before all else: away from this machine there is nothing.
NO_NETWORK = """
import os, sys

def here(host):
    host = host.decode() if isinstance(host, bytes) else host
    return host in (None, "", "127.0.0.1", "::1", "localhost", "0.0.0.0", "::")

def refuse(event, args):
    if event in ("socket.connect", "socket.getaddrinfo"):
        target = args[1] if event == "socket.connect" else args[:2]
        if isinstance(target, tuple) and not here(target[0]):
            with open(os.environ["DEPARTURES"], "a") as log:
                log.write(f"{event} {target[0]}\\n")
            raise OSError(f"there is no network here, not even {target[0]}")

sys.addaudithook(refuse)
"""


class BootError(RuntimeError):
    """What a Space did instead of starting or answering."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def running(
    folder: Path,
    *,
    python: str = sys.executable,
    beside: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """The address of a built Space's app.py in a clean process; it is ended afterwards.

    beside: a folder of packages for the process, such as a stand-in for ZeroGPU's. environment: variables to set.
    Raises BootError with its last words where it does not come up, or if it reached for a network.
    """
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="space-") as elsewhere:
        home = Path(elsewhere)
        (home / "site").mkdir()
        (home / "site" / "sitecustomize.py").write_text(NO_NETWORK)
        (home / "cwd").mkdir()
        departures, log = home / "departures", home / "log"
        kept = ("PATH", "LANG", "LD_LIBRARY_PATH", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
        variables = {name: os.environ[name] for name in kept if name in os.environ} | {
            "HOME": elsewhere,
            "TMPDIR": elsewhere,
            "GRADIO_SERVER_PORT": str(port),
            "DEPARTURES": str(departures),
            "PYTHONPATH": os.pathsep.join([str(home / "site"), *([str(beside)] if beside else [])]),
            "PYTHONDONTWRITEBYTECODE": "1",
            "SYSTEM": "spaces",
            "SPACE_ID": f"org/{folder.name}",
        }
        with log.open("w") as words:
            command, heard = (
                [python, str(Path(folder).resolve() / build.APP)],
                {"stdout": words, "stderr": subprocess.STDOUT},
            )
            process = subprocess.Popen(command, cwd=home / "cwd", env=variables | dict(environment or {}), **heard)
        address = f"http://127.0.0.1:{port}"
        try:
            _wait(process, address, log)
            yield address
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if departures.is_file():
            raise BootError(f"{folder.name} reached for the network: {departures.read_text().splitlines()[:5]}")


def _wait(process: subprocess.Popen, address: str, log: Path) -> None:
    started = time.monotonic()
    while time.monotonic() - started < SECONDS:
        if process.poll() is not None:
            raise BootError(f"app.py ended with status {process.returncode}: …{log.read_text()[-2000:]}")
        with contextlib.suppress(OSError):
            _get(address)
            return
        time.sleep(0.2)
    raise BootError(f"app.py did not answer within {SECONDS} s: …{log.read_text()[-2000:]}")


def _get(address: str) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(address, timeout=60) as answer:
        return answer.read().decode()


def open_page(address: str, path: str = "") -> str:
    """The title of a page. Raises BootError where it is none."""
    found = re.search(r'<meta property="og:title" content="(?!Gradio")([^"]+)"', _get(f"{address}/{path}"))
    if not found:
        raise BootError(f"{address}/{path} is no page of gradio")
    return html.unescape(found[1])


def check_models(address: str) -> None:
    """Return if every model of the app is loaded. Raises BootError with the cause, as the page has it."""
    for component in json.loads(_get(f"{address}/config"))["components"]:
        value = component["props"].get("value")
        if isinstance(value, str) and 'class="v-degraded"' in value:
            raise BootError(html.unescape(re.sub("<[^>]+>", " ", value)).strip())


def example_picture(folder: Path) -> Path:
    """A picture file out of a Space's examples, or a red square where it has none."""
    known = sorted(path for path in Path(folder).glob("apps/examples/*/*.png") if "mask" not in path.name)
    if known:
        return known[0]
    path = Path(tempfile.gettempdir()) / "red.png"
    Image.new("RGB", (64, 64), "red").save(path)
    return path


def call(address: str, endpoint: str, picture: Path | None, /, **arguments):
    """What an endpoint answers to its defaults, an example picture where it wants one, and the least of SMALLEST."""
    client = gradio_client.Client(address, verbose=False, analytics_enabled=False)
    info = client.view_api(return_format="dict", print_info=False)["named_endpoints"][f"/{endpoint}"]
    for parameter in info["parameters"]:
        name = parameter["parameter_name"]
        if name in arguments:
            continue
        if parameter["component"] == "Image":
            arguments[name] = gradio_client.handle_file(str(picture))
        elif name in SMALLEST or not parameter["parameter_has_default"]:
            arguments[name] = parameter["example_input"]
    answer = client.predict(api_name=f"/{endpoint}", **arguments)
    if answer in (None, "", [], ()):
        raise BootError(f"{endpoint} answered nothing")
    return answer


def check(stem: str, folder: Path, **how) -> str:
    """A line on how a built Space started and answered. Raises BootError, or what gradio_client does."""
    started = time.monotonic()
    with running(folder, **how) as address:
        up = time.monotonic() - started
        titles = [open_page(address, path) for path in (["", *build.pages(stem)] if stem == build.GALLERY else [""])]
        check_models(address)
        asked = time.monotonic()
        endpoint = build.page_of(stem).call
        call(address, endpoint, example_picture(folder))
    return f"{stem}: up after {up:.1f} s, {' · '.join(titles)}; {endpoint} in {time.monotonic() - asked:.1f} s"


def check_fresh(stem: str, folder: Path) -> str:
    """The same in a fresh environment of the Space's own requirements.txt, which is removed again."""
    started = time.monotonic()
    uv = shutil.which("uv") or str(Path(sys.executable).parent / "uv")
    with tempfile.TemporaryDirectory(prefix="fresh-", dir=folder.parent) as elsewhere:
        python = str(Path(elsewhere) / "bin" / "python")
        subprocess.run([uv, "venv", "--quiet", "--allow-existing", "--python", sys.executable, elsewhere], check=True)
        subprocess.run(
            [uv, "pip", "install", "--quiet", "--python", python, "-r", str(folder / build.REQUIREMENTS)], check=True
        )
        installed, size = time.monotonic() - started, _size(Path(elsewhere))
        line = check(stem, folder, python=python)
    return f"{line} (fresh environment: {installed:.0f} s to install, {size / 1e9:.1f} GB)"


def _size(folder: Path) -> int:
    """Bytes of a folder's files, a file with several names counted once."""
    found = {(s.st_dev, s.st_ino): s.st_size for p in folder.rglob("*") if not p.is_symlink() and (s := p.stat())}
    return sum(found.values())


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="spaces/boot.py", description=__doc__.split("\n")[0])
    parser.add_argument("stems", nargs="*", help=f"of {', '.join(build.stems())}; all by default")
    parser.add_argument("--model", action="append", default=[], help="as spaces/build.py takes it, for one Space")
    parser.add_argument("--output", type=Path, default=build.ROOT / "build" / "spaces")
    fresh = "one Space in an environment of its own: if the lock has changed, always, never"
    parser.add_argument("--fresh_venv", choices=["changed", "always", "never"], default="changed", help=fresh)
    args = parser.parse_args(argv)
    left_out, failed = [], []
    for stem in args.stems or build.stems():
        try:
            folder = build.build(stem, args.output / stem, args.model)
        except (build.BuildError, store.CheckpointError) as error:
            (failed if args.stems else left_out).append(f"{stem}: {error}")
            continue
        try:
            print(check(stem, folder), flush=True)
        except Exception as error:  # of the process, of the client, of the page: the others are still looked at
            failed.append(f"{stem}: {error}")
    lock = hashlib.sha256((build.ROOT / "requirements.lock").read_bytes()).hexdigest()
    marker = args.output / f".fresh-{lock[:16]}"
    if args.fresh_venv == "always" or args.fresh_venv == "changed" and not marker.is_file():
        try:
            print(check_fresh(FRESH, build.build(FRESH, args.output / FRESH)), flush=True)
            for old in args.output.glob(".fresh-*"):
                old.unlink()
            marker.touch()
        except Exception as error:
            failed.append(f"{FRESH} in a fresh environment: {error}")
    for line in left_out:
        print(f"left out {line}")
    for line in failed:
        print(f"FAILED {line}", file=sys.stderr)
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
