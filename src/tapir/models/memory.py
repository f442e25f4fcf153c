"""Memory, precision and threads of this machine: whether memory ran out, how it is freed, what OpenMP takes."""

from __future__ import annotations

import gc
import math
import os
import sys
from contextlib import AbstractContextManager, suppress
from operator import truediv
from pathlib import Path

SPIN_COUNT = 1000
"""Rounds that GNU OpenMP spins at a barrier before it sleeps; by itself it spins for milliseconds or without end."""

_WAITING = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")  # any of them is the user's decision
_THREADS = "OMP_NUM_THREADS"
_OURS = "TAPIR_OMP_NUM_THREADS"  # the number where we have set it, for every process that inherits it
_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_SIGNS = (
    "out of memory",
    "DefaultCPUAllocator",
    "can't allocate memory",
    "Cannot allocate memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_NOT_SUPPORTED",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory ran out, of the accelerator or of the machine; torch has several ways to say so."""
    signs = any(sign in str(error) for sign in _SIGNS)
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and signs)


class OutOfMemory(AbstractContextManager[None]):
    """Goes on behind the `with` block where memory ran out in it; what the block held can be freed only there."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        return error is not None and is_out_of_memory(error)


def free_memory() -> None:
    """Give memory that nothing refers to back to the accelerator; torch is not loaded for it."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.cuda.empty_cache()  # nothing where CUDA is not initialised
        if torch.backends.mps.is_available():
            torch.mps.empty_cache()


def computes_in_bfloat16() -> bool:
    """Return whether there is a CUDA device that computes in bfloat16 itself."""
    import torch

    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


def cpu_computes_in_bfloat16() -> bool:
    """Return whether this processor multiplies matrices in bfloat16 itself: x86 with AVX512-BF16 or AMX."""
    import torch

    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def limit_threads() -> None:
    """Have OpenMP sleep soon at barriers, and use no more threads than this container has cores.

    Threads spin at a barrier by default, which makes training several times slower where others want the cores.
    Environment variables, for this process and all that it starts: they must be set before torch is loaded. What the
    user has set stays. Without a quota the number of threads is left to the libraries.
    """
    if not any(name in os.environ for name in _WAITING):
        os.environ["GOMP_SPINCOUNT"] = str(SPIN_COUNT)
    with suppress(OSError, ValueError):  # there is no file, or no limit in it
        cores = math.ceil(truediv(*map(int, _QUOTA.read_text().split())))
        if cores < len(os.sched_getaffinity(0)) and _THREADS not in os.environ:
            os.environ[_THREADS] = os.environ[_OURS] = str(cores)


def divided_environment(processes: int = 0) -> dict[str, str]:
    """Return our environment for processes that share the cores: each has its part, unless the user has decided.

    0 is for what starts such processes and divides the cores itself.
    """
    environment = dict(os.environ)
    ours = environment.pop(_OURS, "")
    if ours and environment.get(_THREADS) == ours:
        del environment[_THREADS]
    if processes:
        environment.setdefault(_THREADS, str(max(1, int(ours or os.cpu_count() or 1) // processes)))
    return environment
