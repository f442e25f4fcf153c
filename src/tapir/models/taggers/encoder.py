"""A task tagger that is an encoder classifier: fine-tuned in the run from labels, or a published one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from tapir.config.annotators import EncoderTaggerConfig
from tapir.data.files import disk_errors, read_json, replacing_folder, write_json
from tapir.domain.errors import RoleError, StoreError, TrainingError
from tapir.domain.progress import Progress, SilentProgress
from tapir.domain.task import TaskTag
from tapir.domain.training import TaggerReport
from tapir.models.taggers.classifier import Classifier, finetune, load_classifier, load_encoder, match_labels
from tapir.models.taggers.metrics import Labelled, LabelSplit, SectionT, TrainedTagger, apart, report, temperature

_FOLDER, _FILE = "tagger", "fitted.json"
_CALIBRATION_SHARE = 0.15
_CALIBRATE_ON = 20  # fewer labels say nothing about a temperature
_NOT_DIGESTED = {"kind", "endpoints", "max_tokens"}


class ModelTagger(TrainedTagger[SectionT]):
    """What the taggers share that read with a model: the model is loaded by `fit`, and rests between the stages."""

    _home: Path | None = None  # while it is open
    _progress: Progress = SilentProgress()

    def open(self, folder: Path, progress: Progress) -> None:
        """Belong to this run from now on; nothing is loaded yet."""
        self._home = folder / _FOLDER
        self._progress = progress

    def rest(self) -> None:
        """Take the model off the accelerator; the next instruction brings it back."""
        if self._classifier:
            self._classifier.rest()

    def close(self) -> None:
        """Drop the model; what is kept in the run stays there."""
        self.rest()
        self._classifier, self._home, self._progress = None, None, SilentProgress()


class EncoderTagger(ModelTagger[EncoderTaggerConfig]):
    """Reads an instruction with an encoder and gives it the most probable label, with a calibrated probability.

    Probabilities are calibrated by temperature scaling on a part of the training labels, where there are enough.
    What was fitted is kept in the run's folder, so that a run which goes on tags as before. A `chunk` of instructions
    is sorted by length and tagged together: what is pending after a run was cut short begins with a whole chunk, and
    the same chunk has the same tags to the last bit. Of an instruction longer than `max_length` only the beginning is
    read. With `labelled = 0` the classifier is used as it was published.
    """

    def check(self) -> None:
        """Raise `RoleError` where the encoder cannot be loaded, or a published classifier has other labels."""
        if self._section.labelled:
            load_encoder(self._section)
        else:
            self._load(self._section.model, self._section.revision)

    def fit(self, labelled: Labelled) -> TaggerReport | None:
        """Learn from one part of the labels, measure on the other; None for a published classifier.

        What this run fitted before to the same labels is loaded. `trained_on` counts those used for calibration too.
        """
        if not self._section.labelled:
            self._classifier = self._load(self._section.model, self._section.revision)
            return None
        split = self._split(labelled)
        settings = self._section.model_dump(exclude=_NOT_DIGESTED)
        if "temperature" in settings:  # last, as earlier versions had it: what they fitted keeps its digest
            settings["temperature"] = settings.pop("temperature")
        labels = [(instruction.id, task) for instruction, task in labelled]
        content = [{**settings, "chunk": self._chunk}, self._seed, self.taxonomy.labels, labels]
        digest = hashlib.blake2b(json.dumps(content).encode(), digest_size=16).hexdigest()
        return self._load_fitted(digest) or self._fit(split, digest)

    def _guess(self, classifier: Classifier, texts: Sequence[str]) -> list[TaskTag]:
        self._progress.check()
        return classifier.predict(classifier.rows(texts, self._progress.note))

    def _load_fitted(self, digest: str) -> TaggerReport | None:
        """Load what this run fitted to the same labels; None where there is nothing, or it is damaged."""
        try:
            fitted = _read_fitted(self._home) if self._home else None
            if fitted is None or fitted.digest != digest:
                return None
            self._classifier = self._load(str(self._home))
        except (StoreError, RoleError) as error:
            self._progress.note(f"the tagger kept in {self._home} cannot be used and is fitted again: {error}")
            return None
        return fitted.report

    def _fit(self, split: LabelSplit, digest: str) -> TaggerReport:
        """Train, and go on with what was written: a run that is resumed has exactly that."""
        size = round(len(split.train) * _CALIBRATION_SHARE)
        size = size if size >= _CALIBRATE_ON else 0
        learnt, calibrated = apart(split.train, size)
        split = split._replace(train=[*calibrated, *learnt])
        examples = [(instruction.transcript, task) for instruction, task in learnt]
        model, tokenizer = finetune(self._section, self.taxonomy.labels, examples, self._seed, self._progress)
        kept: AbstractContextManager[str | Path]
        kept = replacing_folder(self._home) if self._home else TemporaryDirectory()
        with kept as folder, disk_errors(draft := Path(folder)):
            model.save_pretrained(draft)
            tokenizer.save_pretrained(draft)
            del model
            classifier = self._load(str(draft))
            measured = self._measure(classifier, split, size)
            write_json(draft / _FILE, asdict(_Fitted(digest, classifier.temperature, measured)))
        self._classifier = classifier
        return measured

    def _measure(self, classifier: Classifier, split: LabelSplit, size: int) -> TaggerReport:
        """Calibrate on the first `size` of the training labels, which were not learnt from; measure on the others."""
        texts = [instruction.transcript for instruction, _ in [*split.train[:size], *split.test]]
        rows = classifier.rows(texts, self._progress.note)
        if not np.isfinite(rows).all():
            raise TrainingError(
                "the fitted tagger's probabilities are not numbers",
                remedy="Lower tagger.learning_rate, then start a new run.",
            )
        if size:
            labels = [classifier.labels.index(task) for _, task in split.train[:size]]
            classifier.temperature = temperature(rows[:size], labels)
        truth, guesses = [task for _, task in split.test], classifier.predict(rows[size:])
        return report(truth, guesses, trained_on=len(split.train), abstain_below=self._section.abstain_below)

    def _load(self, name: str, revision: str = "") -> Classifier:
        model, tokenizer = load_classifier(name, revision)
        labels = match_labels(model.config.id2label, self.taxonomy.labels, name)
        section = self._section
        classifier = Classifier(model, tokenizer, labels, max_length=section.max_length, batch_size=section.batch_size)
        if fitted := _read_fitted(Path(model.name_or_path)):
            classifier.temperature = fitted.temperature
        return classifier


@dataclass(frozen=True, slots=True)
class _Fitted:
    """What lies beside a classifier that a run fitted; `digest` is that of everything that decided what was fitted."""

    digest: str
    temperature: float
    report: TaggerReport


def _read_fitted(folder: Path) -> _Fitted | None:
    file = folder / _FILE
    if not file.is_file():
        return None
    content = read_json(file)
    try:
        return _Fitted(content["digest"], float(content["temperature"]), TaggerReport(**content["report"]))
    except (LookupError, TypeError, ValueError) as error:
        raise StoreError(f"{file} is damaged: {error!r}", remedy="Delete its folder; it is fitted again.") from error
