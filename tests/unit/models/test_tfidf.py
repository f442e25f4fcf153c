"""The words of the taggers: scripts with and without spaces, and corpora that share no words."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from support import encoders, fakes
from tapir.config.annotators import TfidfTaggerConfig
from tapir.domain.instruction import Instruction, Origin
from tapir.models.taggers.embedding import EmbeddingTagger
from tapir.models.taggers.tfidf import TfidfTagger, word_vectorizer

Make: TypeAlias = Callable[[], TfidfTagger | EmbeddingTagger]

CHINESE = {"add": "请计算{}加{}等于多少", "spell": "怎样正确拼写{}和{}", "list": "给我列出有关{}的{}清单"}
JAPANESE = {"add": "{}と{}を足してください", "spell": "{}と{}の綴りを教えて", "list": "{}や{}の一覧を作って"}
THAI = {"add": "บวก{}กับ{}ได้เท่าไร", "spell": "สะกดคำว่า{}และ{}ให้ถูกต้อง", "list": "เขียนรายการของ{}และ{}"}
HAN, THAI_LETTERS = [chr(code) for code in range(0x5200, 0x5E00)], [chr(code) for code in range(0x0E01, 0x0E2F)]


@pytest.fixture(params=["tfidf", "embedding"])
def make(request: pytest.FixtureRequest, bare: dict[str, Path]) -> Make:
    """A new tagger with TF-IDF."""
    if request.param == "embedding":
        return lambda: encoders.embedding_tagger(bare["modernbert"])
    return lambda: TfidfTagger(TfidfTaggerConfig(labelled=60), encoders.TAXONOMY, encoders.truth, seed=0, chunk=512)


def fit(tagger: TfidfTagger | EmbeddingTagger, texts: list[tuple[str, str]]) -> float:
    """Return the accuracy on labels that were kept apart."""
    labelled = [(Instruction.of(text, Origin("corpus")), task) for text, task in texts]
    report = tagger.fit(labelled)
    assert report is not None
    fakes.check_tags(tagger, [one for one, _ in labelled])
    return report.accuracy


@pytest.mark.parametrize(("sentences", "letters"), [(CHINESE, HAN), (JAPANESE, HAN), (THAI, THAI_LETTERS)])
def test_tasks_are_learnt_in_scripts_without_spaces(make: Make, sentences: dict[str, str], letters: list[str]) -> None:
    source = random.Random(3)
    texts = [
        (sentences[task].format(*("".join(source.sample(letters, 2)) for _ in range(2))), task)
        for task in source.choices(encoders.LABELS, k=100)
    ]
    assert fit(make(), texts) > 0.9


def test_texts_that_share_no_words_are_told_apart_by_parts_of_words() -> None:
    source = random.Random(3)
    endings = {"add": "ologies", "spell": "ingly", "list": "ation"}
    texts = [("".join(source.sample("bcdfghjkm", 7)) + endings[task], task) for task in [*endings] * 30]
    tagger = TfidfTagger(TfidfTaggerConfig(labelled=60), encoders.TAXONOMY, encoders.truth, seed=0, chunk=512)
    assert fit(tagger, texts) > 0.9


def test_texts_that_share_nothing_and_texts_without_words_are_no_error(make: Make) -> None:
    for first in (0x0100, 0x2190):  # letters, then signs that are no words
        fit(make(), [(f"{chr(first + 2 * at)}{chr(first + 2 * at + 1)}", encoders.LABELS[at % 3]) for at in range(60)])


def test_words_between_spaces_are_those_of_scikit_learn() -> None:
    texts = [
        "Été à l'école: 3 x_y, 42 km",
        "Дождь, снег — и снова дождь",
        "한국어 문장 두 개, 한국어",
        "naïve co-op; a b cd",
    ]
    texts += [
        "हिन्दी में एक वाक्य",
        "ελληνικά και λέξεις",
        "עברית ועוד מילים",
        "العربية كلمات",
        "été снова 한국어 x_y में και",
    ]
    for least in (1, 2):
        ours, theirs = (
            word_vectorizer(texts, least),
            TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=least),
        )
        assert (ours.fit_transform(texts) != theirs.fit_transform(texts)).nnz == 0
        assert ours.vocabulary_ == theirs.vocabulary_
