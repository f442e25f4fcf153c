"""A stage in a process of its own, to be killed: `python -m tests.llm.stage URL FOLDER ROWS IN_FLIGHT`.

Every row that the engine gave back is written to `finished.txt`; the first Ctrl-C stops as it does in a run.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from rich.console import Console

from tapir.domain.completion import Completion
from tapir.errors import Interrupted
from tapir.llm.endpoint import Endpoint
from tapir.terminal import TerminalWatch
from tests.llm.calling import engine, rows


def main(url: str, folder: Path, count: int, in_flight: int) -> int:
    """Work on all rows; the exit status is that of the command line."""
    watch = TerminalWatch(Console(file=sys.stdout), 1)
    endpoint = Endpoint("e", url, "m", concurrency=in_flight)
    finished = os.open(folder / "finished.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    with watch.listening(), engine(endpoint, folder, stopping=lambda: watch.stopping) as made:
        try:
            for row, reply in made.stream(["e"], rows(count)):
                assert isinstance(reply, Completion), reply
                os.write(finished, f"{row}\n".encode())
        except Interrupted as error:
            return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])))
