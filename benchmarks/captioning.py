"""How fast a caption is said: `python -m benchmarks.captioning [--model emoji] [--threads 2]`.

A greedy caption of one picture in milliseconds, and what the KV cache spares at 20 and 60 tokens: of the decoding
alone, and of the whole call, in which the picture is seen too. With and without take turns within one run, so that
ratios compare, and must say the same tokens. The captioner is not allowed to end before so many tokens. `--model
untrained` takes a fresh one of the size of the preset `emoji`, which is as fast as a trained one.
"""

import argparse
import dataclasses
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.table import markdown, write
from hub_models import captioning, store
from training import captioning as training
from training import clip as clip_training

PICTURE = Path(__file__).parent.parent / "apps" / "examples" / "captioning" / "scene-00.png"
TOKENS = (20, 60)
REPEATS = 41
UNTRAINED = "untrained"
WORDS = [f"word{number}" for number in range(6000)]  # a vocabulary of the size of the emoji's


def untrained() -> captioning.Captioner:
    """A captioner of the size of the preset `emoji` with fresh weights."""
    torch.manual_seed(0)
    cfg = training.PRESETS["emoji"]
    eye = clip_training.model.create_clip(dataclasses.replace(clip_training.config.EMOJI, text="scratch"), WORDS)
    made = training.model.create_captioner(cfg, eye)
    captioning.decoder_of(made.model).set_attn_implementation("sdpa")  # as `load` has it
    made.model.eval()
    return made


def endless(served: captioning.Captioner) -> captioning.Captioner:
    """The captioner, its end out of reach, so that captions are as long as asked."""
    with torch.no_grad():
        captioning.decoder_of(served.model).get_output_embeddings().bias[served.end_id] = -1e4
    return served


def taking_turns(calls: dict[str, Callable], repeats: int = REPEATS) -> dict[str, float]:
    """Median milliseconds of each call; they take turns, after one turn that warms up."""
    took: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            if turn:
                took[name].append(1000 * (time.perf_counter() - began))
    return {name: float(np.median(times)) for name, times in took.items()}


def cache(served: captioning.Captioner, picture: Image.Image, repeats: int = REPEATS) -> list[dict]:
    """A row for each length and part of the work: milliseconds with the cache and without, and their ratio."""
    with torch.no_grad():
        raw = served.encode([picture])
    rows = []
    for tokens in TOKENS:
        said = {on: served.caption(picture, max_new_tokens=tokens, use_cache=on)[0].tokens for on in (True, False)}
        if said[True] != said[False] or len(said[True]) != tokens:
            raise SystemExit(
                f"with the cache it says {said[True]}, without {said[False]}, {tokens} tokens were asked for"
            )

        def decode(on: bool, tokens: int = tokens) -> None:
            with torch.no_grad():
                served.greedy(raw, [served.start_id], max_new_tokens=tokens, use_cache=on)

        def whole(on: bool, tokens: int = tokens) -> None:
            served.caption(picture, max_new_tokens=tokens, use_cache=on)

        for part, call in (("decoding", decode), ("whole call", whole)):
            took = taking_turns({on: lambda call=call, on=on: call(on == "on") for on in ("on", "off")}, repeats)
            rows.append(
                {
                    "tokens": tokens,
                    "of": part,
                    "ms with cache": took["on"],
                    "ms without": took["off"],
                    "ratio": took["off"] / took["on"],
                }
            )
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.captioning", description=__doc__.split("\n")[0])
    parser.add_argument("--model", help=f"a bundled variant, a folder, or {UNTRAINED}")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    name = args.model or ("emoji" if "emoji" in store.variants("captioning") else UNTRAINED)
    served = untrained() if name == UNTRAINED else captioning.load(name, device="cpu")
    with Image.open(PICTURE) as file:
        picture = file.convert("RGB")
    greedy = {"rows": [], "tokens": len(served.caption(picture)[0].tokens)}
    greedy |= taking_turns({"ms": lambda: served.caption(picture)}, args.repeats)
    rows = cache(endless(served), picture, args.repeats)
    found = {"model": name, "threads": args.threads, "greedy": greedy, "rows": rows}
    print(f"\n## captioning: {name} ({platform.machine()}, {args.threads} threads)\n")
    print(markdown(rows))
    took = f"{greedy['ms']:.0f} ms (median of {args.repeats})"
    print(f"\nA greedy caption of one picture ({greedy['tokens']} tokens): {took}.")
    write("captioning", found)


if __name__ == "__main__":
    main()
