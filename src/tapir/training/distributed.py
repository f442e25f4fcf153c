"""Rank and world size of this process, as launchers set them."""

from __future__ import annotations

import os


def world_size() -> int:
    """Return how many processes train together; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Return the number of this process among them."""
    return int(os.environ.get("RANK", "0"))


def is_main_process() -> bool:
    """Return whether this process is the one that writes files and reports progress."""
    return rank() == 0


def local_rank() -> int:
    """Return the number of this process on its machine, which is also that of its accelerator."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def barrier() -> None:
    """Wait until every process has come here."""
    import torch.distributed

    if torch.distributed.is_initialized():
        torch.distributed.barrier()
