"""A task tagger that is an encoder classifier: fine-tuned in the run from labels, or a published one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from tapir.domain.completion import Failure
from tapir.domain.instruction import Instruction
from tapir.domain.randomness import seed_for
from tapir.domain.task import TaskTag, Taxonomy
from tapir.errors import RoleError, StoreError, TrainingError
from tapir.roles import TaggerReport, Watch
from tapir.tagging.alone import Alone
from tapir.tagging.classifier import Classifier
from tapir.tagging.finetune import Course, learnt
from tapir.tagging.fitted import Fitted, drafting, save
from tapir.tagging.loading import Source, named, trained
from tapir.tagging.measure import report
from tapir.tagging.sample import Labelled, Labeller, Parts, cut, draw

_FOLDER = "tagger"
_CALIBRATION_SHARE = 0.15
_CALIBRATE_ON = 20  # fewer labels say nothing about a temperature


@dataclass(frozen=True, slots=True)
class EncoderSettings:
    """Hyper-parameters; see the recipe for their meaning.

    Attributes:
        model: folder or hub id of an encoder, or of a classifier where nothing is labelled.
        revision: on the hub; empty means the newest.
        labelled: instructions to learn from; with 0 the classifier is used as it was published.
        held_out: share of the labels that the tagger is measured on.
        epochs: passes over the labels.
        learning_rate: at its peak.
        batch_size: instructions in a training step, and tagged at once.
        max_length: tokens read of an instruction; the rest of a longer one is not seen.
        abstain_below: an instruction whose best label is less probable gets none; 0 labels all.
        chunk: instructions that are sorted by length, tagged and handed on together.
    """

    model: str
    revision: str
    labelled: int
    held_out: float
    epochs: float
    learning_rate: float
    batch_size: int
    max_length: int
    abstain_below: float
    chunk: int

    @property
    def pretrained(self) -> bool:
        """Whether the classifier is a published one, with nothing to learn."""
        return self.labelled == 0


class EncoderTagger:
    """Reads an instruction with an encoder and gives it the most probable label, with a calibrated probability.

    Probabilities are calibrated by temperature scaling on a part of the training labels, where there are enough.
    What was fitted is kept in the run's folder, so that a run which goes on tags as before.
    """

    def __init__(self, taxonomy: Taxonomy, label: Labeller, settings: EncoderSettings, seed: int) -> None:
        """Take the labels, their source, the settings, and the seed of what is learnt."""
        self._taxonomy = taxonomy
        self._label = label
        self._settings = settings
        self._seed = seed_for(seed, "tagger")
        self._home: Path | None = None
        self._watch: Watch = Alone()
        self._classifier: Classifier | None = None

    @property
    def taxonomy(self) -> Taxonomy:
        """The labels it chooses from."""
        return self._taxonomy

    def open(self, folder: Path, watch: Watch) -> None:
        """From now on what is fitted is kept in this run; nothing is loaded yet."""
        self._home = folder / _FOLDER
        self._watch = watch

    def rest(self) -> None:
        """Take the model off the accelerator; the next instruction brings it back."""
        if self._classifier:
            self._classifier.rest()

    def close(self) -> None:
        """Let go of the model; what is kept in the run stays there."""
        self.rest()
        self._classifier, self._home, self._watch = None, None, Alone()

    def sample(self, instructions: Sequence[Instruction], seed: int) -> list[Instruction]:
        """A random sample to be labelled, in the order that decides what is learnt and what is measured on."""
        return draw(instructions, self._settings.labelled, seed)

    def label(self, instructions: Iterable[Instruction]) -> Iterable[tuple[str, TaskTag | Failure]]:
        """Labels from their source."""
        return self._label(instructions)

    def fit(self, labelled: Labelled) -> TaggerReport | None:
        """Learn from one part of the labels, measure on the other; None for a published classifier.

        What this run fitted before to the same labels is loaded and not fitted again. `trained_on` counts the
        labels that the probabilities were calibrated on, too.

        Raises:
            RoleError: no such model, labels that are not the taxonomy's, too few labels, or too little memory.
            TrainingError: the loss is not a number.
            StoreFull: the disk filled up; nothing half-written stays.
            Interrupted: the user asked to stop.
        """
        if self._settings.pretrained:
            self._classifier = self._loaded(Source(self._settings.model, self._settings.revision))
            return None
        parts = cut(labelled, self._taxonomy.labels, self._settings.held_out)
        digest = self._digest(labelled)
        return self._kept(digest) or self._fitted(parts, digest)

    def tag(self, instructions: Iterable[Instruction]) -> Iterator[tuple[str, TaskTag | Failure]]:
        """The most probable label of each instruction, with its probability; "abstained" where that is too low.

        Of an instruction longer than `max_length` only the beginning is read. Instructions come back in their
        order, `chunk` of them at a time: what a run that was cut short still owes begins with a whole chunk, and
        the same chunk has the same tags to the last bit.

        Raises:
            RoleError: it was not fitted, or memory does not suffice.
            Interrupted: the user asked to stop.
        """
        if self._classifier is None:
            raise RoleError("the tagger was asked before it was fitted", remedy="Call fit() first.")
        classifier, source = self._classifier, iter(instructions)
        while chunk := list(islice(source, self._settings.chunk)):
            self._watch.check()
            rows = classifier.logits([one.text for one in chunk], self._watch.note)
            for one, guess in zip(chunk, classifier.guesses(rows), strict=True):
                yield one.id, self._said(guess)

    def _said(self, guess: TaskTag) -> TaskTag | Failure:
        least = self._settings.abstain_below
        if not np.isfinite(guess.confidence):
            return Failure("no label", "the classifier's probabilities are not numbers")
        if guess.confidence < least:
            what = f"best guess {guess.task} with probability {guess.confidence:.3f}"
            return Failure("abstained", f"{what}, less than abstain_below = {least:g}")
        return guess

    def _digest(self, labelled: Labelled) -> str:
        """Of everything that decides what is fitted."""
        labels = [(one.id, task) for one, task in labelled]
        parts = [asdict(self._settings), self._seed, self._taxonomy.labels, labels]
        return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()

    def _kept(self, digest: str) -> TaggerReport | None:
        """Load what this run fitted to the same labels; None where there is nothing, or it is damaged."""
        if self._home is None:
            return None
        try:
            found = Fitted.read(self._home)
            if found is None or found.digest != digest:
                return None
            self._classifier = self._loaded(Source(str(self._home)))
        except (StoreError, RoleError) as error:
            self._watch.note(f"the tagger kept in {self._home} cannot be used and is fitted again: {error}")
            return None
        return found.report

    def _fitted(self, parts: Parts, digest: str) -> TaggerReport:
        """Learn, and go on with what was written: a run that is resumed has exactly that."""
        settings = self._settings
        size = round(len(parts.train) * _CALIBRATION_SHARE)
        size = size if size >= _CALIBRATE_ON else 0
        learn = [(one.text, task) for one, task in parts.train[size:]]
        course = Course(settings.epochs, settings.learning_rate, settings.batch_size, settings.max_length, self._seed)
        source = Source(settings.model, settings.revision)
        model, tokenizer = learnt(source, self._taxonomy.labels, learn, course, self._watch)
        with drafting(self._home) as draft:
            save(model, tokenizer, draft)
            del model
            classifier = self._loaded(Source(str(draft)))
            found = self._measured(classifier, Parts(parts.train[:size], parts.test), trained_on=len(parts.train))
            Fitted(digest, classifier.temperature, found).write(draft)
        self._classifier = classifier
        return found

    def _measured(self, classifier: Classifier, unseen: Parts, *, trained_on: int) -> TaggerReport:
        """Calibrate on one part of the labels that were not learnt from, measure on the other."""
        texts = [one.text for one, _ in [*unseen.train, *unseen.test]]
        rows = classifier.logits(texts, self._watch.note)
        if not np.isfinite(rows).all():
            raise TrainingError(
                "the fitted tagger's probabilities are not numbers",
                remedy="Lower tagger.learning_rate, then start a new run.",
            )
        aside = len(unseen.train)
        if aside:
            classifier.calibrate(rows[:aside], [task for _, task in unseen.train])
        return report(
            [task for _, task in unseen.test],
            classifier.guesses(rows[aside:]),
            trained_on=trained_on,
            abstain_below=self._settings.abstain_below,
        )

    def _loaded(self, source: Source) -> Classifier:
        """The classifier in a folder or on the hub, checked against the taxonomy."""
        model, tokenizer = trained(source)
        labels = named(model.config.id2label, self._taxonomy.labels, source.model)
        classifier = Classifier(
            model,
            tokenizer,
            labels,
            max_length=self._settings.max_length,
            batch_size=self._settings.batch_size,
        )
        if fitted := Fitted.read(Path(source.model)):
            classifier.temperature = fitted.temperature
        return classifier
