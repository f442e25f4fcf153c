"""Start-up: `import tapir` and `tapir --help` against a bare interpreter, best of nine each, in one run."""

from __future__ import annotations

import subprocess
import sys
import time

PROGRAMS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "import tapir": [sys.executable, "-c", "import tapir"],
    "tapir --help": [sys.executable, "-m", "tapir.cli.main", "--help"],
}


def best(command: list[str]) -> float:
    """Fewest seconds of nine runs."""
    seconds = []
    for _ in range(9):
        began = time.monotonic()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.monotonic() - began)
    return min(seconds)


if __name__ == "__main__":
    bare = best(PROGRAMS["python -c pass"])
    for name, command in PROGRAMS.items():
        found = best(command)
        print(f"{name:<16} {found:6.3f} s   {found / bare:4.1f} x bare")
