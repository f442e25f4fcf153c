"""A task tagger learnt in the run: TF-IDF and logistic regression on a labelled sample."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from tapir.domain.completion import Failure
from tapir.domain.instruction import Instruction
from tapir.domain.task import TaskTag, Taxonomy
from tapir.errors import RoleError
from tapir.roles import TaggerReport
from tapir.tagging.measure import report
from tapir.tagging.sample import Labelled, Labeller, cut, draw

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

_AT_ONCE = 512


class TfidfTagger:
    """Words and word pairs, a linear classifier, its accuracy measured on labels it has not seen."""

    def __init__(self, taxonomy: Taxonomy, label: Labeller, *, labelled: int, held_out: float) -> None:
        """Take the labels' source, how many to ask for, and the share kept for measuring."""
        self._taxonomy = taxonomy
        self._label = label
        self._labelled = labelled
        self._held_out = held_out
        self._pipeline: Pipeline | None = None

    @property
    def taxonomy(self) -> Taxonomy:
        """The labels it chooses from."""
        return self._taxonomy

    def sample(self, instructions: Sequence[Instruction], seed: int) -> list[Instruction]:
        """A random sample to be labelled, in the order that decides what is learnt and what is measured on."""
        return draw(instructions, self._labelled, seed)

    def label(self, instructions: Iterable[Instruction]) -> Iterable[tuple[str, TaskTag | Failure]]:
        """Labels from their source."""
        return self._label(instructions)

    def fit(self, labelled: Labelled) -> TaggerReport:
        """Learn from one part of the labels, measure on the other.

        Raises:
            RoleError: there are too few labels to learn from.
        """
        parts = cut(labelled, self._taxonomy.labels, self._held_out)
        self._pipeline = _pipeline().fit([one.text for one, _ in parts.train], [task for _, task in parts.train])
        guesses = _guesses(self._pipeline, [one.text for one, _ in parts.test])
        return report([task for _, task in parts.test], guesses, trained_on=len(parts.train))

    def tag(self, instructions: Iterable[Instruction]) -> Iterator[tuple[str, TaskTag | Failure]]:
        """The most probable label of each instruction, with its probability.

        Raises:
            RoleError: it was not fitted.
        """
        if self._pipeline is None:
            raise RoleError("the tagger was asked before it was fitted", remedy="Call fit() first.")
        source = iter(instructions)
        while chunk := list(islice(source, _AT_ONCE)):
            guesses = _guesses(self._pipeline, [one.text for one in chunk])
            yield from ((one.id, guess) for one, guess in zip(chunk, guesses, strict=True))


def _guesses(pipeline: Pipeline, texts: Sequence[str]) -> list[TaskTag]:
    """The most probable label of each text, with its probability."""
    rows = pipeline.predict_proba(texts)
    best = [int(row.argmax()) for row in rows]
    return [TaskTag(str(pipeline.classes_[place]), float(row[place])) for row, place in zip(rows, best, strict=True)]


def _pipeline() -> Pipeline:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)
    return make_pipeline(words, LogisticRegression(C=30.0, max_iter=1000))
