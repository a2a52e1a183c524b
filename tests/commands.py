"""Several command lines in one process, each as if it were typed: what all of them import is imported once."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

# Runs a script or a module once for each list of arguments that comes by stdin; what each said on stdout and stderr,
# and its exit status, goes out.
RUN = """
import contextlib, io, json, runpy, sys

done, name, hook = [], sys.argv[1], sys.excepthook
for sys.argv[1:] in json.load(sys.stdin):
    said, complaint, status, sys.excepthook = io.StringIO(), io.StringIO(), 0, hook
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(complaint):
        try:
            (runpy.run_path if name.endswith(".py") else runpy.run_module)(name, run_name="__main__")
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
            print(end.code if isinstance(end.code, str) else "", file=sys.stderr)
        except BaseException:
            status = 1
            sys.excepthook(*sys.exc_info())
    done.append((status, said.getvalue(), complaint.getvalue()))
print(json.dumps(done))
"""


def run_each(
    name: str, lines: Sequence[Sequence[object]], environment: Mapping[str, str], cwd: Path, timeout_s: float = 300
) -> list[subprocess.CompletedProcess]:
    """What `python name …` (a path that ends with .py) or `python -m name …` does with each of these arguments."""
    lines = [[*map(str, line)] for line in lines]
    process = subprocess.run(
        [sys.executable, "-c", RUN, name], input=json.dumps(lines), env=environment, cwd=cwd, text=True,
        capture_output=True, timeout=timeout_s,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr[-3000:]
    done = json.loads(process.stdout.splitlines()[-1])
    return [
        subprocess.CompletedProcess([name, *line], status, said, complaint)
        for line, (status, said, complaint) in zip(lines, done, strict=True)
    ]
