"""One rank that shards its model with FSDP2 on the CPU.

torch can do that over gloo. Accelerate asks for several GPUs first, so it is told that there are some; everything
after that is what happens on GPUs.

    python -m support.sharded FOLDER
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tapir.training.worker import train_rank


def main() -> None:
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import DistributedType
    from torch import distributed

    distributed.init_process_group("gloo")
    PartialState._prepare_backend = lambda *_, **__: ("gloo", DistributedType.MULTI_GPU)
    finished = train_rank(Path(sys.argv[1]))
    assert AcceleratorState().distributed_type == DistributedType.FSDP
    distributed.destroy_process_group()
    sys.exit(not finished)


if __name__ == "__main__":
    main()
