"""This process among those that train together, as their launcher's environment tells it."""

from __future__ import annotations

import os


def processes() -> int:
    """How many processes train together; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def first() -> bool:
    """Whether this process is the one that writes."""
    return os.environ.get("RANK", "0") == "0"


def local() -> int:
    """This process among those of its machine, which is also the number of its accelerator."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def wait() -> None:
    """Return when every process has come here."""
    import torch.distributed

    if torch.distributed.is_initialized():
        torch.distributed.barrier()
