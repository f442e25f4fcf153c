"""One rank that shards its model with FSDP2 on the CPU.

torch can do that over gloo. Accelerate asks for several GPUs first, so it is told that there are some; everything
after that is what happens on GPUs.

    python -m tests.launch.sharded FOLDER
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tapir.training.lifeline import hold
from tapir.training.worker import take_part


def main() -> None:
    hold()
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import DistributedType
    from torch import distributed

    distributed.init_process_group("gloo")
    PartialState._prepare_backend = lambda *_, **__: ("gloo", DistributedType.MULTI_GPU)
    well = take_part(Path(sys.argv[1]))
    assert AcceleratorState().distributed_type == DistributedType.FSDP
    distributed.destroy_process_group()
    sys.exit(not well)


if __name__ == "__main__":
    main()
