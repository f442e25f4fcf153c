"""llama.cpp's server with the model of `make models-judge`, in the foreground until Ctrl-C.

python lab/real/serve.py [--port 8080] [--threads 1] [--context 8192] [--slots 4] [--model FILE.gguf]

The same server as the program `llama-server`, from the package xllamacpp (MIT), whose wheel needs no compiler. It
is made for any x86-64 or ARM processor; a llama-server that was compiled on the machine itself is faster.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path

from models import HOME, JUDGE, LIBRARIES, SERVER


def main() -> None:
    """Load the model, say where the server listens, and wait."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=HOME / JUDGE.path)
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--context", type=int, default=8192, help="tokens of all slots together")
    parser.add_argument("--slots", type=int, default=4, help="calls at once")
    options = parser.parse_args()
    if not (LIBRARIES / SERVER).is_dir() or not options.model.is_file():
        sys.exit(f"there is no {options.model}, or no server in {LIBRARIES / SERVER}: run `make models-judge` first")
    sys.path.insert(0, str(LIBRARIES / SERVER))
    import xllamacpp  # type: ignore[import-not-found]

    settings = xllamacpp.CommonParams()
    settings.model.path = str(options.model)
    settings.model_alias = {options.model.stem}
    settings.hostnames, settings.port = ["127.0.0.1"], options.port
    settings.n_ctx, settings.n_parallel = options.context, options.slots
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = options.threads
    server = xllamacpp.Server(settings)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # its own handlers stop the server and leave the process
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    print(f"{options.model.stem} at {server.listening_address}/v1, {options.slots} calls at once", flush=True)
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
