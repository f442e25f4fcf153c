"""A task tagger learnt in the run: TF-IDF and logistic regression on a labelled sample."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, TypeAlias

from tapir.domain.completion import Failure
from tapir.domain.instruction import Instruction
from tapir.domain.randomness import priorities, seed_for
from tapir.domain.task import TaskTag, Taxonomy
from tapir.errors import RoleError
from tapir.roles import TaggerReport

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

Labeller: TypeAlias = Callable[[Iterable[Instruction]], Iterable[tuple[str, TaskTag | Failure]]]

_AT_LEAST = 10
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
        order = priorities([one.id for one in instructions], seed_for(seed, "tagger")).argsort(kind="stable")
        return [instructions[place] for place in order[: self._labelled]]

    def label(self, instructions: Iterable[Instruction]) -> Iterable[tuple[str, TaskTag | Failure]]:
        """Labels from their source."""
        return self._label(instructions)

    def fit(self, labelled: Sequence[tuple[Instruction, str]]) -> TaggerReport:
        """Learn from one part of the labels, measure on the other.

        Raises:
            RoleError: there are too few labels to learn from.
        """
        labels = [(one.text, task) for one, task in labelled if task in self._taxonomy.labels]
        cut = round(len(labels) * self._held_out)
        test, train = labels[:cut], labels[cut:]
        if len(train) < _AT_LEAST or not test or len({task for _, task in train}) < 2:  # noqa: PLR2004
            tasks = len({task for _, task in labels})
            raise RoleError(
                f"{len(labels)} usable labels of {tasks} tasks are too few to train a tagger",
                remedy="Raise tagger.labelled, or bring a larger corpus.",
            )
        self._pipeline = _pipeline().fit([text for text, _ in train], [task for _, task in train])
        return self._report(self._pipeline, len(train), test)

    def tag(self, instructions: Iterable[Instruction]) -> Iterator[tuple[str, TaskTag | Failure]]:
        """The most probable label of each instruction, with its probability."""
        if self._pipeline is None:
            raise RoleError("the tagger was asked before it was fitted", remedy="Call fit() first.")
        source = iter(instructions)
        labels = self._pipeline.classes_
        while chunk := list(islice(source, _AT_ONCE)):
            probabilities = self._pipeline.predict_proba([one.text for one in chunk])
            for one, row in zip(chunk, probabilities, strict=True):
                best = int(row.argmax())
                yield one.id, TaskTag(str(labels[best]), float(row[best]))

    def _report(self, pipeline: Pipeline, trained_on: int, test: Sequence[tuple[str, str]]) -> TaggerReport:
        found = pipeline.predict([text for text, _ in test])
        hits: dict[str, list[bool]] = {}
        for (_, task), guess in zip(test, found, strict=True):
            hits.setdefault(task, []).append(task == guess)
        return TaggerReport(
            trained_on=trained_on,
            n=len(test),
            accuracy=sum(map(sum, hits.values())) / len(test),
            by_task={task: sum(found) / len(found) for task, found in sorted(hits.items())},
        )


def _pipeline() -> Pipeline:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)
    return make_pipeline(words, LogisticRegression(C=30.0, max_iter=1000))
