"""A cluster of two nodes, for all tests here."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.ray_nodes import Nodes


@pytest.fixture(scope="session")
def two_nodes() -> Iterator[Nodes]:
    pytest.importorskip("ray", reason="Ray is not installed")
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        nodes = Nodes(Path(folder))
        try:
            nodes.add()
            nodes.add()
            yield nodes
        finally:
            nodes.close()
