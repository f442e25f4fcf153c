"""The tagger trained in the run: TF-IDF and logistic regression on a labelled sample."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from tapir.config.annotators import TfidfTaggerConfig
from tapir.domain.task import TaskTag
from tapir.domain.training import TaggerReport
from tapir.models.taggers.metrics import Labelled, TrainedTagger, report

# Thai, Lao, Burmese, Khmer, kana and Han characters
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U000323af"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]{{2,}}")  # with spaces, what scikit-learn takes for a word


def word_vectorizer(texts: Sequence[str], least: int = 1, **options: Any) -> Any:
    """Return a vectorizer: TF-IDF of words and pairs of words that stand in `least` texts or more.

    In scripts without spaces a character is a word. Where no word stands in so many texts, strings of up to three
    characters take the place of words.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    found = Counter(word for text in texts for word in set(_WORD.findall(text.lower())))
    if max(found.values(), default=0) < least:
        return TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 3), sublinear_tf=True, **options)
    return TfidfVectorizer(token_pattern=_WORD.pattern, ngram_range=(1, 2), sublinear_tf=True, min_df=least, **options)


class TfidfTagger(TrainedTagger[TfidfTaggerConfig]):
    """Words and word pairs, a linear classifier, its accuracy measured on labels it has not seen."""

    def fit(self, labelled: Labelled) -> TaggerReport:
        """Learn from one part of the labels, measure on the other."""
        parts = self._split(labelled)
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline

        texts, tasks = zip(*((instruction.transcript, task) for instruction, task in parts.train), strict=True)
        words, linear = word_vectorizer(texts, least=2), LogisticRegression(C=30.0, max_iter=1000)
        self._classifier = make_pipeline(words, linear).fit(texts, tasks)
        guesses = self._guess(self._classifier, [instruction.transcript for instruction, _ in parts.test])
        return report([task for _, task in parts.test], guesses, trained_on=len(parts.train))

    def _guess(self, classifier: Any, texts: Sequence[str]) -> list[TaskTag]:
        rows = classifier.predict_proba(texts)
        best = [int(row.argmax()) for row in rows]
        return [TaskTag(str(classifier.classes_[at]), float(row[at])) for row, at in zip(rows, best, strict=True)]
