"""Trained taggers: accuracy and macro F1 on instructions that people labelled, with bootstrap intervals.

    python benchmarks/taggers.py                       TF-IDF, embeddings, both joined, the nearest name (`make models`)
    python benchmarks/taggers.py --taggers encoder     the encoder fine-tuned (slow)
    python benchmarks/taggers.py --sets dolly-800      some of the sets

Each seed draws what is learnt; everything else of the set is tagged. Small sets are cross-validated in five folds, so
that every row is tagged once by a tagger that did not learn from it. Intervals (95 %) are over instructions, with all
their tags of all seeds; they do not contain what another choice of training rows would change beyond the seeds.
"""

from __future__ import annotations

import argparse
import gzip
import json
import logging
import os
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tapir.config.annotators import EmbeddingTaggerConfig, EncoderTaggerConfig, TfidfTaggerConfig
from tapir.domain.instruction import Instruction, Origin
from tapir.domain.task import TaskDistribution, TaskTag, Taxonomy
from tapir.models.taggers.embedding import EmbeddingTagger, Read, SentenceEncoder
from tapir.models.taggers.encoder import EncoderTagger
from tapir.models.taggers.metrics import calibration_error
from tapir.models.taggers.tfidf import TfidfTagger

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "task_types"
MODELS = Path(os.environ.get("TAPIR_MODELS", "~/.cache/tapir/models")).expanduser()
FOLDS, SEEDS, DRAWS, CHUNK = 5, 5, 1_000, 512
STEPS, BATCH = 200, 32  # of fine-tuning: epochs are raised until there are so many

Pairs: TypeAlias = Sequence[tuple[Instruction, str]]
Parts: TypeAlias = Iterator[tuple[Pairs, Pairs]]


class EmbeddingsAlone(EmbeddingTagger):
    """The joined tagger without its words."""

    @staticmethod
    def fit_pipeline(known: Read, tasks: NDArray[np.str_], weight: float, c: float) -> Pipeline:
        """Fit a classifier of the embeddings."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import FunctionTransformer

        vectors = FunctionTransformer(lambda several: weight * np.stack([vector for _, vector in several]))
        return make_pipeline(vectors, LogisticRegression(C=c, max_iter=1000)).fit(known, tasks)


@dataclass(frozen=True, slots=True)
class Tagged:
    """All tags of one tagger on one set: the instruction, its label, the tag and the probability of each."""

    ids: NDArray[np.int64]
    truth: NDArray[np.int64]
    tags: NDArray[np.int64]
    confidences: NDArray[np.float64]

    def figures(self, times: NDArray[np.int64]) -> tuple[float, float]:
        """Return accuracy and macro F1 over the labels, where each instruction counts so many times."""
        weights = times[self.ids].astype(float)
        labels = max(self.truth.max(), self.tags.max()) + 1
        right = np.bincount(self.truth, weights * (self.truth == self.tags), labels)
        both = np.bincount(self.truth, weights, labels) + np.bincount(self.tags, weights, labels)
        return right.sum() / weights.sum(), float((2 * right[both > 0] / both[both > 0]).mean())


def main() -> None:
    """Print a table of every set."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--taggers", default="TF-IDF,embedding,joined,nearest", help="some of them, or encoder")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--sets", default="dolly-800,dolly,user-oriented,wizardlm")
    parser.add_argument("--model", default=str(MODELS / "all-minilm-l6-v2"))
    asked = parser.parse_args()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    remember_rows()
    for name in asked.sets.split(","):
        pairs, parts = SETS[name]()
        labels = sorted({label for _, label in pairs})
        print(f"\n{name}: {len(pairs):,} instructions, {len(labels)} labels, {asked.seeds} seeds\n")
        print("| tagger | learnt from | tags | accuracy | macro F1 | calibration error |\n|---|---:|---:|---|---|---:|")
        found = {}
        for tagger in asked.taggers.split(","):
            found[tagger] = tagged(
                tagger, asked.model, labels, [part for seed in range(asked.seeds) for part in parts(pairs, seed)]
            )
        show(found, len(next(parts(pairs, 0))[0]))


def show(found: dict[str, Tagged], learnt: int) -> None:
    """Print the rows of a set, and what joining changed, drawn for all taggers alike."""
    source = np.random.default_rng(0)
    size = max(one.ids.max() for one in found.values()) + 1
    draws = [np.bincount(source.integers(size, size=size), minlength=size) for _ in range(DRAWS)]
    drawn = {name: np.array([one.figures(times) for times in draws]) for name, one in found.items()}
    once = {name: np.array(one.figures(np.ones(size, np.int64))) for name, one in found.items()}
    for name, one in found.items():
        cells = " | ".join(interval(once[name][at], drawn[name][:, at]) for at in (0, 1))
        error = calibration_error(one.confidences.tolist(), (one.truth == one.tags).tolist())
        print(f"| {name} | {learnt:,} | {len(one.ids):,} | {cells} | {error:.3f} |")
    for other in [name for name in found if name != "joined"] if "joined" in found else []:
        cells = " | ".join(
            interval(once["joined"][at] - once[other][at], drawn["joined"][:, at] - drawn[other][:, at], "+")
            for at in (0, 1)
        )
        print(f"| joined - {other} | | | {cells} | |")


def interval(value: float, draws: NDArray[np.float64], sign: str = "") -> str:
    """Return points of a hundred with their interval."""
    low, high = np.percentile(draws, [2.5, 97.5])
    return f"{100 * value:{sign}.1f} ({100 * low:{sign}.1f} to {100 * high:{sign}.1f})"


def tagged(name: str, model: str, labels: Sequence[str], parts: Iterable[tuple[Pairs, Pairs]]) -> Tagged:
    """Fit a tagger to every part and tag the rest."""
    taxonomy = Taxonomy("labels", "1", TaskDistribution.of(dict.fromkeys(labels, 1.0)))
    number: dict[str, int] = {}
    rows = []
    for seed, (learnt, left) in enumerate(parts):
        tagger = make(name, model, taxonomy, seed, len(learnt), len(left))
        tagger.fit([*left, *learnt])
        truth = {one.id: label for one, label in left}
        for one, tag in tagger.tag([one for one, _ in left]):
            assert isinstance(tag, TaskTag)
            place = number.setdefault(one, len(number))
            rows.append((place, labels.index(truth[one]), labels.index(tag.task), tag.confidence))
    ids, right, guesses, confidences = (np.array(column) for column in zip(*rows, strict=True))
    return Tagged(ids, right, guesses, confidences)


def make(
    name: str, model: str, taxonomy: Taxonomy, seed: int, learnt: int, left: int
) -> TfidfTagger | EmbeddingTagger | EncoderTagger:
    """Return a new tagger that measures itself on the first `left` rows."""

    def label(_: Iterable[Instruction]) -> Iterator[tuple[str, TaskTag]]:
        return iter(())

    share = {"labelled": learnt + left, "held_out": left / (learnt + left)}
    if name == "TF-IDF":
        return TfidfTagger(TfidfTaggerConfig(**share), taxonomy, label, seed, CHUNK)
    if name == "encoder":
        epochs = max(3.0, STEPS * BATCH / learnt)
        section = EncoderTaggerConfig(kind="encoder", model=model, epochs=epochs, batch_size=BATCH, **share)
        return EncoderTagger(section, taxonomy, label, seed, CHUNK)
    kind = EmbeddingsAlone if name == "embedding" else EmbeddingTagger
    share = {"labelled": 0} if name == "nearest" else share
    return kind(EmbeddingTaggerConfig(kind="embedding", model=model, **share), taxonomy, label, seed, CHUNK)


def remember_rows() -> None:
    """Embed every text once for all seeds and taggers."""
    rows, known = SentenceEncoder.rows, dict[str, NDArray[np.float64]]()

    def remembered(self: SentenceEncoder, texts: Sequence[str], note: Callable[[str], None]) -> NDArray[np.float64]:
        new = list(dict.fromkeys(text for text in texts if text not in known))
        if new:
            known.update(zip(new, rows(self, new, note), strict=True))
        return np.stack([known[text] for text in texts])

    SentenceEncoder.rows = remembered  # type: ignore[assignment,method-assign]


def shuffled(pairs: Pairs, seed: int) -> Pairs:
    """The rows in another order."""
    order = list(pairs)
    random.Random(seed).shuffle(order)
    return order


def split(learnt: float) -> Callable[[Pairs, int], Parts]:
    """Learn from so many rows, or from such a share, and tag all others."""

    def parts(pairs: Pairs, seed: int) -> Parts:
        order, place = shuffled(pairs, seed), learnt if isinstance(learnt, int) else round(learnt * len(pairs))
        yield order[:place], order[place:]

    return parts


def folds(pairs: Pairs, seed: int) -> Parts:
    """Learn from four fifths and tag the other, five times."""
    order = shuffled(pairs, seed)
    for fold in range(FOLDS):
        yield [one for place, one in enumerate(order) if place % FOLDS != fold], order[fold::FOLDS]


def rows_of(file: str, label: str) -> Pairs:
    """Every text of a file once, with the label that people gave it."""
    path = DATA / file
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    found = {}
    for row in rows:
        given = row.get("input") or (row.get("instances") or [{}])[0].get("input")
        text = "\n\n".join(filter(None, (row.get("instruction") or row.get("Instruction"), given)))
        one = Instruction.of(text, Origin("corpus"))
        found[one.id] = (one, row[label])
    return list(found.values())


def user_oriented() -> tuple[Pairs, Callable[[Pairs, int], Parts]]:
    """Apps with a row for each fold; most of the 71 have fewer."""
    pairs = rows_of("user_oriented_instructions.jsonl.gz", "motivation_app")
    counts = Counter(label for _, label in pairs)
    return [(one, label) for one, label in pairs if counts[label] >= FOLDS], folds


SETS: dict[str, Callable[[], tuple[Pairs, Callable[[Pairs, int], Parts]]]] = {
    "dolly-800": lambda: (rows_of("dolly_3k.jsonl.gz", "category"), split(600)),
    "dolly": lambda: (rows_of("dolly_3k.jsonl.gz", "category"), split(0.75)),
    "user-oriented": user_oriented,
    "wizardlm": lambda: (rows_of("wizardlm_testset.jsonl", "Skill"), folds),
}


if __name__ == "__main__":
    main()
