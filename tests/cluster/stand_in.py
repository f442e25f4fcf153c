"""Stands in for the Ray driver: `python -m tests.cluster.stand_in DESCRIPTOR PART`."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from multiprocessing.connection import Connection

from tapir.cluster.driver import _end_with_parent


def main() -> None:
    part = sys.argv[2]
    with Connection(int(sys.argv[1])) as run:
        if part == "echo":
            run.send(run.recv())
            run.send(os.environ["TOLD"])
        elif part == "endless":
            threading.Thread(target=_end_with_parent, daemon=True).start()
            run.send(os.getpid())
            time.sleep(600)
        else:
            sys.stderr.write("the cluster went up in smoke\n")
            sys.stderr.flush()
            if part == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            sys.exit(3)


if __name__ == "__main__":
    main()
