"""Tagger on sentence embeddings: logistic regression over them and TF-IDF, trained in the run; or the nearest name."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tapir.config.annotators import EmbeddingTaggerConfig
from tapir.domain.errors import RoleError
from tapir.domain.task import TaskTag
from tapir.domain.training import TaggerReport
from tapir.models.taggers.classifier import TextModel, cannot_load, load_encoder
from tapir.models.taggers.encoder import ModelTagger
from tapir.models.taggers.metrics import Labelled, conversations, mean_loss, most_probable, report, temperature
from tapir.models.taggers.tfidf import word_vectorizer

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

MIXES = ((0.5, 10.0), (2.0, 100.0))
"""Weight of the embeddings beside TF-IDF, and scikit-learn's C. The kind of a request shows in its words, its subject
in the embedding."""

_FOLDS = 5
_CALIBRATE_ON = 20  # fewer labels say nothing about mix and temperature
_WORDS = 5_000  # and word pairs, the most frequent
_SCALE = 20.0  # of cosines before the softmax, as sentence-transformers trains with by default
_POOLINGS = {"mean_tokens": "mean", "cls_token": "cls", "mean": "mean", "cls": "cls", "lasttoken": "lasttoken"}

Mix: TypeAlias = tuple[float, float]
Read: TypeAlias = Sequence[tuple[str, NDArray[np.float64]]]
"""Texts with their embeddings."""


class Joined(NamedTuple):
    """A sentence encoder, the classifier of what it reads, and the temperature of its logits."""

    encoder: SentenceEncoder
    pipeline: Pipeline | NearestLabel
    temperature: float

    def rest(self) -> None:
        """Leave the accelerator."""
        self.encoder.rest()


class NearestLabel:
    """What stands for a classifier without labels to learn from: the names of the labels, embedded like texts."""

    def __init__(self, labels: Sequence[str], encoder: SentenceEncoder, note: Callable[[str], None]) -> None:
        self.classes_ = np.array(labels)
        self._names = encoder.read([label.replace("_", " ") for label in labels], note)

    def predict_log_proba(self, read: Read) -> NDArray[np.float64]:
        """Return log-probabilities of shape (texts, labels) by cosine similarity; they are not calibrated."""
        from scipy.special import log_softmax

        texts, names = (np.stack([vector for _, vector in several]) for several in (read, self._names))
        probabilities: NDArray[np.float64] = log_softmax(_SCALE * texts @ names.T, axis=1)
        return probabilities


class EmbeddingTagger(ModelTagger[EmbeddingTaggerConfig]):
    """Gives an instruction the most probable label by its sentence embedding and its words, calibrated.

    Of `MIXES` the one with the least loss in cross-validation on the training labels is taken; its out-of-fold logits
    give the temperature. A `chunk` of instructions is sorted by length and embedded together: the same chunk has the
    same tags to the last bit. A run that goes on fits again, to the same. With `labelled = 0` nothing is learnt:
    the label whose name is nearest is taken, and its probability is not calibrated.
    """

    def fit(self, labelled: Labelled) -> TaggerReport | None:
        """Learn from one part of the labels, measure on the other; None where there are to be none."""
        encoder = SentenceEncoder.load(self._section)
        if not self._section.labelled:
            nearest = NearestLabel(self.taxonomy.labels, encoder, self._progress.note)
            self._classifier = Joined(encoder, nearest, 1.0)
            return None
        split = self._split(labelled)
        tasks = np.array([task for _, task in split.train])
        known = encoder.read([one.transcript for one, _ in split.train], self._progress.note)
        mix, heat = self._cross_validate(known, tasks, np.array(conversations(split.train)))
        self._classifier = Joined(encoder, self.fit_pipeline(known, tasks, *mix), heat)
        guesses = self._guess(self._classifier, [one.transcript for one, _ in split.test])
        truth, least = [task for _, task in split.test], self._section.abstain_below
        return report(truth, guesses, trained_on=len(tasks), abstain_below=least)

    def check(self) -> None:
        """Raise `RoleError` where the encoder cannot be loaded."""
        SentenceEncoder.load(self._section)

    @staticmethod
    def fit_pipeline(known: Read, tasks: NDArray[np.str_], weight: float, c: float) -> Pipeline:
        """Fit a classifier of texts with embeddings; TF-IDF has length 1, embeddings have length `weight`."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import FeatureUnion, make_pipeline
        from sklearn.preprocessing import FunctionTransformer

        texts = [text for text, _ in known]
        words = word_vectorizer(texts, preprocessor=lambda read: read[0].lower(), max_features=_WORDS)
        vectors = FunctionTransformer(lambda several: np.stack([vector for _, vector in several]))
        both = FeatureUnion([("words", words), ("vectors", vectors)], transformer_weights={"vectors": weight})
        return make_pipeline(both, LogisticRegression(C=c, max_iter=1000)).fit(known, tasks)

    def _guess(self, classifier: Joined, texts: Sequence[str]) -> list[TaskTag]:
        self._progress.check()
        read = classifier.encoder.read(texts, self._progress.note)
        rows = classifier.pipeline.predict_log_proba(read) / classifier.temperature
        return most_probable(rows, classifier.pipeline.classes_.tolist())

    def _cross_validate(self, known: Read, tasks: NDArray[np.str_], talks: NDArray[np.str_]) -> tuple[Mix, float]:
        """Return the mix of the least loss and the temperature of its logits, both from `talks` not learnt from."""
        from sklearn.model_selection import KFold

        labels, truth = np.unique(tasks, return_inverse=True)
        logits = {mix: np.full((len(known), len(labels)), -np.inf) for mix in MIXES}
        for others, left in KFold(_FOLDS, shuffle=True, random_state=self._seed % 2**32).split(known):
            learnt = others[~np.isin(talks[others], talks[left])]
            columns = np.unique(truth[learnt])
            for mix, rows in logits.items() if len(columns) > 1 else ():
                self._progress.check()
                fitted = self.fit_pipeline([known[place] for place in learnt], tasks[learnt], *mix)
                rows[np.ix_(left, columns)] = fitted.predict_log_proba([known[place] for place in left])
        met = np.isfinite(logits[MIXES[0]][np.arange(len(known)), truth])  # the fold had an example of the task
        if met.sum() < _CALIBRATE_ON:
            return MIXES[-1], 1.0
        heats = {mix: temperature(rows[met], truth[met]) for mix, rows in logits.items()}
        return min(heats.items(), key=lambda item: mean_loss(logits[item[0]][met] / item[1], truth[met]))


class SentenceEncoder(TextModel):
    """An encoder whose token vectors are pooled into one vector of length 1."""

    def __init__(self, section: EmbeddingTaggerConfig, model: Any, tokenizer: Any, pooling: str) -> None:
        super().__init__(model, tokenizer, max_length=section.max_length, batch_size=section.batch_size)
        self._section = section
        self._pooling = pooling

    @classmethod
    def load(cls, section: EmbeddingTaggerConfig) -> Self:
        """Load a folder or hub id in the layout of sentence-transformers; a plain encoder is pooled by the mean."""
        model, tokenizer = load_encoder(section)
        return cls(section, model, tokenizer, _pooling(model.name_or_path, section.revision))

    def read(self, texts: Sequence[str], note: Callable[[str], None]) -> Read:
        """Return the texts with their embeddings."""
        vectors = self.rows([self._section.prefix + text for text in texts], note)
        if not np.isfinite(vectors).all():
            what = f"the embeddings of {self._section.model} are not numbers"
            raise RoleError(what, remedy="Choose another tagger.model.")
        return list(zip(texts, vectors, strict=True))

    def _output(self, batch: Any) -> Any:
        import torch

        hidden, mask = self._model(**batch).last_hidden_state.float(), batch["attention_mask"]
        if self._pooling == "mean":
            pooled = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
        else:
            place = mask.argmax(1) if self._pooling == "cls" else mask.shape[1] - 1 - mask.flip(1).argmax(1)
            pooled = hidden[torch.arange(len(mask)), place]
        return torch.nn.functional.normalize(pooled, dim=-1)


def _pooling(name: str, revision: str) -> str:
    """Return how a model's token vectors become one."""
    try:
        if not (modules := _content(name, "modules.json", revision)):
            return "mean"
        found = {module["type"].rpartition(".")[2]: module["path"] for module in modules}
        ways = [kind for kind in found if kind not in {"Transformer", "Normalize"}]
        if ways == ["Pooling"]:
            config = _content(name, f"{found['Pooling']}/config.json", revision)
            flags = [key.removeprefix("pooling_mode_") for key, on in config.items() if on is True]
            ways = [flag for flag in flags if f"pooling_mode_{flag}" in config] or [config["pooling_mode"]]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise cannot_load(name, revision, error) from error
    if len(ways) == 1 and ways[0] in _POOLINGS:
        return _POOLINGS[ways[0]]
    raise RoleError(
        f"{name} makes a sentence's vector by {' + '.join(map(str, ways))}; mean, cls and lasttoken are supported",
        remedy='Choose another tagger.model, such as "sentence-transformers/all-MiniLM-L6-v2".',
    )


def _content(name: str, file: str, revision: str) -> Any:
    """Return a JSON file of a model, None where it has none; a hub that cannot be reached is an `OSError`."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError, RemoteEntryNotFoundError

    path = Path(name, file)
    if not Path(name).is_dir():
        try:
            path = Path(hf_hub_download(name, file, revision=revision or None))
        except RemoteEntryNotFoundError:
            return None
        except LocalEntryNotFoundError as error:
            raise OSError(f"its {file} was not downloaded before, and the hub cannot be reached") from error
    return json.loads(path.read_text("utf-8")) if path.is_file() else None
