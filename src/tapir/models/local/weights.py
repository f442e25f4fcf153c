"""Shapes of a model's weights, from its files: nothing is loaded and nothing fetched."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path

_LENGTH = 8  # bytes at the beginning of safetensors that say how long their header is


def weight_shapes(name: str, revision: str = "") -> dict[str, tuple[int, ...]]:
    """Return the shape of every weight, by its name, of a model folder, or of a hub id in the local cache.

    None are returned where there are no safetensors on this machine.
    """
    folder = Path(name) if Path(name).is_dir() else _cached(name, revision)
    return dict(chain.from_iterable(map(_shapes, sorted(folder.glob("*.safetensors"))))) if folder else {}


def _cached(name: str, revision: str) -> Path | None:
    with suppress(ImportError, ValueError):  # it is not installed, or this is not an id of the hub
        from huggingface_hub import try_to_load_from_cache

        config = try_to_load_from_cache(name, "config.json", revision=revision or None)
        return Path(config).parent if isinstance(config, str) else None
    return None


def _shapes(path: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    with suppress(OSError, ValueError, LookupError), path.open("rb") as file:  # damage is named at loading
        length = int.from_bytes(file.read(_LENGTH), "little")
        header = json.loads(file.read(min(length, path.stat().st_size)))
        yield from [(key, tuple(entry["shape"])) for key, entry in header.items() if key != "__metadata__"]
