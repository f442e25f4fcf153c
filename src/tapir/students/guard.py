"""Runs a server as its child, and lets nothing of it outlive the program that wanted it: `guard.py PARENT COMMAND...`.

It is started as a file, by itself, in a session of its own, so it knows the standard library only. When the parent
goes away, however it does, or the server ends, everything in the session's process group is killed: of a server whose
first process is killed, the others would go on and keep their memory.
"""

import os
import signal
import subprocess
import sys
import time

_LOOK = 0.1  # seconds between two looks


def main() -> None:
    """Watch the server and the parent until one of them is gone."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL)  # noqa: S603
    signal.signal(signal.SIGTERM, lambda *_: server.terminate())
    while server.poll() is None and os.getppid() == parent:
        time.sleep(_LOOK)
    if server.returncode is not None:
        sys.stderr.write(f"\nthe server ended with {_ended(server.returncode)}\n")
        sys.stderr.flush()
    os.killpg(0, signal.SIGKILL)


def _ended(status: int) -> str:
    return f"exit status {status}" if status >= 0 else signal.Signals(-status).name


if __name__ == "__main__":
    main()
