"""Many visitors at once: `python -m benchmarks.load [--clients 1 4 16] [--jobs 500]`, on the gallery as it ships.

Each client is a visitor of its own (127.0.0.2, .3, …: Linux has them all) that sends one job after the other, drawn
from a fixed list. What is said of every number of clients:

- jobs a second, and the seconds of a job by endpoint (median, 95th and 99th percentile, waiting included);
- fairness: the fewest and the most jobs that a client was done with when the first had nothing more to ask;
- lost: jobs without an answer; crossed: answers that are not what the same job gets when it is asked alone;
- memory of the server and files that lie in its upload folder, after as many jobs as there are kinds, and at the end.

Then a classification beside four who draw all the time, and the time from a Stop to the first step of who waits.
"""

import argparse
import hashlib
import json
import os
import random
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np

from apps.kit.uploads import EXAMPLES
from benchmarks.table import markdown, write

LOOKS = {
    "classifier_predict": {},
    "captioning_caption": {"prefix": ""},
    "captioning_rank": {"lines": "a cat\na house\na flag"},
    "segmentation_predict": {},
}
PICTURES = ("04-dog-noto.png", "11-taxi-fxemoji.png", "photo-cat.jpg", "scene-00.png")
LONG = {"prompt": "a lighthouse", "count": 4, "seed": "1", "steps": 60}


@dataclass(frozen=True)
class Job:
    """A call: its endpoint and what it is asked, as JSON; picture: which of the examples goes with it."""

    endpoint: str
    asked: str
    picture: str | None = None


def kinds() -> list[Job]:
    """All different jobs, each as often as a visitor is likely to ask for it."""
    labels = ("animal", "face", "food", "flag", "plant", "vehicle")
    prompts = ("a red apple", "a rocket", "a cat", "a guitar", "a sunflower", "a key")
    asked = [("ddpm_draw", {"labels": [label], "seed": seed}) for seed, label in enumerate(labels)]
    asked += [("text_to_image_draw", {"prompt": prompt, "seed": str(seed)}) for seed, prompt in enumerate(prompts)]
    drawn = [Job(name, json.dumps(what | {"count": 1})) for name, what in asked]
    pictures = [str(EXAMPLES / "captioning" / name) for name in PICTURES]
    return drawn + [Job(name, json.dumps(asked), picture) for name, asked in LOOKS.items() for picture in pictures]


class Visitor:
    """Somebody at an address of this machine."""

    def __init__(self, base: str, place: int):
        local = f"127.0.{place // 250}.{place % 250 + 2}"
        self.base, self.http = base, httpx.Client(transport=httpx.HTTPTransport(local_address=local), timeout=600)

    def upload(self, path: str) -> str:
        """Where a picture lies on the server."""
        with open(path, "rb") as file:
            return self.http.post(f"{self.base}/gradio_api/upload", files={"files": file}).json()[0]

    def begin(self, endpoint: str, asked: dict) -> str:
        """The event of a call that is under way. Raises httpx.HTTPStatusError where it is refused."""
        reply = self.http.post(f"{self.base}/gradio_api/call/v2/{endpoint}", json=asked)
        return reply.raise_for_status().json()["event_id"]

    def ask(self, job: Job, uploads: dict[str, str]) -> str | None:
        """A hash of the whole answer, files by their content; None where none came."""
        try:
            asked = json.loads(job.asked)
            if job.picture:
                asked["picture"] = {"path": uploads[job.picture], "meta": {"_type": "gradio.FileData"}}
            event = self.begin(job.endpoint, asked)
            reply = self.http.get(f"{self.base}/gradio_api/call/{job.endpoint}/{event}").text
            ended, value = re.findall(r"event: (\w+)\ndata: (.*)", reply)[-1]
        except (httpx.HTTPError, IndexError):
            return None
        return self._hash(json.loads(value)) if ended == "complete" else None

    def _hash(self, answer) -> str:
        """Of what an answer says: of a file its content, and no times."""
        parts, waiting = [], [answer]
        while waiting:
            part = waiting.pop(0)
            if isinstance(part, dict) and "url" in part:
                parts.append(hashlib.sha256(self.http.get(part["url"]).content).hexdigest())
            elif isinstance(part, dict):
                waiting += [part[key] for key in sorted(part) if "second" not in key]
            elif isinstance(part, list):
                waiting += part
            else:
                parts.append(re.sub(r"[\d.]+ m?s\b", "", str(part)))
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@contextmanager
def server():
    """(address, process, upload folder) of the gallery in a process of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as uploads:
        own = {"GRADIO_TEMP_DIR": uploads, "HF_HUB_OFFLINE": "1", "GRADIO_ANALYTICS_ENABLED": "False"}
        command = [sys.executable, "-m", "apps.gallery", "--port", str(port)]
        process = subprocess.Popen(command, env=os.environ | own, stdout=subprocess.PIPE, text=True)
        try:
            for line in process.stdout or ():
                if line.startswith("Open"):
                    break
            threading.Thread(target=lambda: list(process.stdout or ()), daemon=True).start()
            yield f"http://127.0.0.1:{port}", process, Path(uploads)
        finally:
            process.kill()
            process.wait()


def memory_mib(process: subprocess.Popen) -> float:
    """What the process holds in memory now."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024  # ty: ignore[not-subscriptable]


def mixed(base: str, clients: int, jobs: int, alone: dict[Job, str]) -> tuple[dict, dict[str, list[float]]]:
    """What `clients` visitors with `jobs` jobs between them saw, and the seconds of each job by endpoint."""
    visitors = [Visitor(base, place) for place in range(clients)]
    order = random.Random(0).choices(list(alone), k=jobs)
    shares = [order[place::clients] for place in range(clients)]
    done, seconds, lost, crossed = [0] * clients, {}, [], []
    first_done: list[list[int]] = []

    def work(place: int) -> None:
        who = visitors[place]
        uploads = {job.picture: who.upload(job.picture) for job in alone if job.picture}
        for job in shares[place]:
            began = time.perf_counter()
            answer = who.ask(job, uploads)
            seconds.setdefault(job.endpoint, []).append(time.perf_counter() - began)
            done[place] += 1
            if answer is None:
                lost.append(job)
            elif answer != alone[job]:
                crossed.append(job)
        first_done.append(list(done))

    began = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(work, range(clients)))
    took = time.perf_counter() - began
    fairness = f"{min(first_done[0])} to {max(first_done[0])}"
    found = {
        "clients": clients,
        "jobs": jobs,
        "jobs/s": jobs / took,
        "of a client": fairness,
        "lost": len(lost),
        "crossed": len(crossed),
    }
    return found, seconds


def beside_drawing(base: str, count: int) -> list[float]:
    """Seconds of `count` classifications while four visitors draw all the time."""
    ended = threading.Event()

    def draw(place: int) -> None:
        who = Visitor(base, place)
        while not ended.is_set():
            who.ask(Job("text_to_image_draw", json.dumps(LONG)), {})

    with ThreadPoolExecutor(4) as pool:
        for place in range(10, 14):
            pool.submit(draw, place)
        who, seconds = Visitor(base, 1), []
        job = next(job for job in kinds() if job.endpoint == "classifier_predict")
        uploads = {job.picture: who.upload(job.picture)} if job.picture else {}
        time.sleep(2)
        for _ in range(count):
            began = time.perf_counter()
            assert who.ask(job, uploads) is not None
            seconds.append(time.perf_counter() - began)
        ended.set()
    return seconds


def stopped(base: str, tries: int) -> list[float]:
    """Seconds from the moment that a long drawing is given up until one that waits behind it, of one step, is there."""
    seconds = []
    for _ in range(tries):
        hog, other = Visitor(base, 20), Visitor(base, 21)
        event = hog.begin("text_to_image_draw", LONG | {"steps": 100, "count": 8})
        short = Job("text_to_image_draw", json.dumps(LONG | {"steps": 1, "count": 1}))
        with (
            hog.http.stream("GET", f"{base}/gradio_api/call/text_to_image_draw/{event}"),
            ThreadPoolExecutor(1) as pool,
        ):
            time.sleep(1)
            waits = pool.submit(other.ask, short, {})
            time.sleep(1)
            assert not waits.done(), "the drawing was over before it was stopped"
            hog.http.post(f"{base}/gradio_api/cancel", json={"session_hash": "", "fn_index": 0, "event_id": event})
            began = time.perf_counter()
            assert waits.result() is not None
            seconds.append(time.perf_counter() - began)
    return seconds


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.load", description=__doc__.split("\n")[0])
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--jobs", type=int, default=500, help="for each number of clients")
    args = parser.parse_args(argv)
    with server() as (base, process, folder):
        lone = Visitor(base, 0)
        uploads = {job.picture: lone.upload(job.picture) for job in kinds() if job.picture}
        alone = {job: lone.ask(job, uploads) for job in kinds()}
        unanswered = [job for job, answer in alone.items() if answer is None]
        if unanswered:
            raise SystemExit(f"{unanswered[0].endpoint} gave no answer even alone")
        rows, by_endpoint = [], []
        for clients in args.clients:
            warm = memory_mib(process)
            found, seconds = mixed(base, clients, args.jobs, alone)
            files = sum(path.is_file() for path in folder.rglob("*"))
            rows.append(found | {"MiB before": warm, "MiB after": memory_mib(process), "files": files})
            print(markdown(rows[-1:]), flush=True)
            for endpoint, each in sorted(seconds.items()):
                p50, p95, p99 = np.percentile(each, [50, 95, 99])
                by_endpoint.append(
                    {"clients": clients, "endpoint": endpoint, "p50, s": p50, "p95, s": p95, "p99, s": p99}
                )
        classify, stop = beside_drawing(base, 40), stopped(base, 5)
    more = {
        "classify beside four who draw, p95, s": np.percentile(classify, 95),
        "from Stop to the next drawing, s": max(stop),
    }
    more = {name: float(value) for name, value in more.items()}
    write("load", {"rows": rows, "by endpoint": by_endpoint, **more})
    print(f"\n{markdown(rows)}\n\n{markdown(by_endpoint)}\n\n{markdown([more])}")


if __name__ == "__main__":
    main()
