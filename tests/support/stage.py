"""A stage in a process of its own, to be killed: `python -m support.stage URL FOLDER ROWS IN_FLIGHT`.

Every row that the client gave back is written to `finished.txt`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from support.calling import client, endpoint, rows
from tapir.domain.completion import Completion


def main(url: str, folder: Path, count: int, in_flight: int) -> None:
    """Work on all rows."""
    finished = os.open(folder / "finished.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    with client(endpoint(url, concurrency=in_flight), folder) as made:
        for row, reply in made.stream(["e"], rows(count)):
            assert isinstance(reply, Completion), reply
            os.write(finished, f"{row}\n".encode())


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
