"""A fitted classifier on disk: whole, or not there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tapir.errors import StoreError
from tapir.roles import TaggerReport
from tapir.store.files import disk_errors, full, read_json, write_json

_FILE = "fitted.json"
_FULL_SIGNS = ("os error 27", "os error 28", "os error 122")


@dataclass(frozen=True, slots=True)
class Fitted:
    """What is known of a classifier that a run fitted; it lies beside the model.

    Attributes:
        digest: of everything that decided what was fitted.
        temperature: what its logits are divided by.
        report: how good it was on the labels held out.
    """

    digest: str
    temperature: float
    report: TaggerReport

    def write(self, folder: Path) -> None:
        """Put it beside the model."""
        write_json(folder / _FILE, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> Fitted | None:
        """What lies in `folder`; None for a model that no run fitted.

        Raises:
            StoreError: it is damaged.
        """
        file = folder / _FILE
        if not file.is_file():
            return None
        content = read_json(file)
        try:
            return cls(content["digest"], float(content["temperature"]), TaggerReport(**content["report"]))
        except (LookupError, TypeError, ValueError) as error:
            raise StoreError(
                f"{file} is damaged: {error!r}", remedy="Delete its folder; the tagger is fitted again."
            ) from error


@contextmanager
def drafting(home: Path | None) -> Iterator[Path]:
    """A folder to write to, which becomes `home` when all is written; without a home it is gone afterwards.

    Raises:
        StoreFull: the disk is full; what was in `home` before stays.
    """
    if home is None:
        with TemporaryDirectory() as folder:
            yield Path(folder)
        return
    draft = home.with_name(f".{home.name}.draft")
    try:
        with disk_errors(draft):
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True)
        yield draft
        with disk_errors(home):
            shutil.rmtree(home, ignore_errors=True)
            draft.replace(home)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write both so that transformers reads them.

    Raises:
        StoreFull: the disk is full.
    """
    try:
        with disk_errors(folder):
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
    except Exception as error:
        if any(sign in str(error) for sign in _FULL_SIGNS):  # the compiled parts of both raise no OSError
            raise full(folder) from error
        raise
