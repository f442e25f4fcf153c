"""A Ray cluster on this machine, kept for one run: `python -m tapir.cluster.keeper DESCRIPTOR FOLDER`.

Standard input is a pipe that nobody writes to: at its end, which comes with that of the run, the cluster ends, and its
files go.
"""

from __future__ import annotations

import logging
import shutil
import sys
from multiprocessing.connection import Connection

from tapir.cluster.wire import Broken, Started


def main() -> None:
    """Start it, tell its address, keep it until the run goes away."""
    with Connection(int(sys.argv[1])) as parent:
        import ray

        try:
            found = ray.init(
                address="local",
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.WARNING,
                _temp_dir=sys.argv[2],
            )
        except (OSError, RuntimeError, ValueError) as error:
            parent.send(Broken(str(error)))
            raise
        parent.send(Started(found.address_info["gcs_address"]))
        sys.stdin.buffer.read()
        ray.shutdown()
        shutil.rmtree(sys.argv[2], ignore_errors=True)


if __name__ == "__main__":
    main()
