"""Encoders and a fitted classifier, made once for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support import encoders, fakes
from support.scripted import Watcher


@pytest.fixture(autouse=True, scope="session")
def one_core() -> Iterator[None]:
    """So small a model gains nothing from more, and two tests beside each other lose much."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Untrained encoders without a head, by kind."""
    return {kind: make(tmp_path_factory.mktemp(kind), head=False) for kind, make in encoders.KINDS.items()}


@pytest.fixture(scope="session")
def run(bare: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run in which a tagger was fitted."""
    folder = tmp_path_factory.mktemp("run")
    tagger = encoders.tagger(bare["modernbert"])
    tagger.open(folder, Watcher())
    fakes.taught(tagger, encoders.INSTRUCTIONS)
    tagger.close()
    return folder
