"""A process that ends with the one that started it, however that one ends.

The parent holds the writing end of a pipe that is the standard input of the processes it started, and of those
that they start in turn. Nobody ever writes: when the parent is gone, the pipe is at its end, and so are they.

    python -m tapir.training.lifeline MODULE ARGUMENTS...
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
import time

VARIABLE = "TAPIR_LIFELINE"
"""Set in the environment where standard input is such a pipe: the seconds that a launcher waits for its own."""


def hold(patience: float = 0.0) -> None:
    """End this process when its parent is gone; does nothing where there is no such pipe.

    Args:
        patience: seconds to end in order after a SIGTERM; with 0 it ends at once.
    """
    if os.environ.get(VARIABLE):
        threading.Thread(target=_wait, args=(patience,), name="lifeline", daemon=True).start()


def _wait(patience: float) -> None:
    while os.read(0, 1):
        pass
    if patience:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(patience)
    group = os.getpgrp()
    if group == os.getpid():
        os.killpg(group, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Run a module of somebody else's with the lifeline held."""
    sys.argv = sys.argv[1:]
    hold(patience=float(os.environ.get(VARIABLE, "0")))
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
