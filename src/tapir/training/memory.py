"""Memory that ran out, and memory that is given back."""

from __future__ import annotations

import gc
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

_SIGNS = ("DefaultCPUAllocator", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "Cannot allocate memory")


def ran_out(error: BaseException) -> bool:
    """Whether this is a device's or the machine's memory that ran out; torch has several ways to say so."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)
    )


def give_back() -> None:
    """Give the memory that nobody refers to any more back to its device; a look at every object takes a moment."""
    gc.collect()
    _hand_over()


@contextmanager
def given_back() -> Iterator[None]:
    """Give back memory at the end; after an error its frames would otherwise hold on to the model."""
    try:
        yield
    except BaseException as error:
        one: BaseException | None = error
        while one is not None:
            traceback.clear_frames(one.__traceback__)
            one = one.__cause__ or one.__context__
        gc.collect()
        raise
    finally:
        _hand_over()


def _hand_over() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
