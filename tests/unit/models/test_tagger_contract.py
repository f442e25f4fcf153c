"""What every tagger that is learnt or loaded here has in common."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from support import encoders, fakes
from tapir.config.annotators import TfidfTaggerConfig
from tapir.domain.errors import RoleError
from tapir.domain.roles import Tagger
from tapir.domain.task import TaskTag
from tapir.domain.training import TaggerReport
from tapir.models.taggers.metrics import TrainedTagger
from tapir.models.taggers.tfidf import TfidfTagger

Make: TypeAlias = Callable[[], Tagger]


@pytest.fixture(scope="module", params=["tfidf", "modernbert", "deberta", "published", "abstaining", "embedding"])
def make(request: pytest.FixtureRequest, bare: dict[str, Path], run: Path) -> Make:
    """A new tagger of one sort."""
    makers: dict[str, Make] = {
        "tfidf": lambda: TfidfTagger(
            TfidfTaggerConfig(labelled=60), encoders.TAXONOMY, encoders.truth, seed=0, chunk=512
        ),
        "modernbert": lambda: encoders.tagger(bare["modernbert"]),
        "deberta": lambda: encoders.tagger(bare["deberta"]),
        "published": lambda: encoders.tagger(run / "tagger", labelled=0),
        "abstaining": lambda: encoders.tagger(bare["modernbert"], epochs=3, abstain_below=0.6),
        "embedding": lambda: encoders.embedding_tagger(bare["modernbert"]),
    }
    return makers[request.param]


FOREIGN = [encoders.instruction("sing", number) for number in range(20)]
Taught: TypeAlias = tuple[Tagger, TaggerReport | None]


@pytest.fixture(scope="module")
def taught(make: Make) -> Taught:
    """A tagger fitted to labels of which some are not in the taxonomy, and its report."""
    tagger = make()
    labelled = [(one, one.text.split()[0]) for one in tagger.sample(encoders.INSTRUCTIONS, 7)]
    return tagger, tagger.fit([*labelled, *((one, "sing") for one in FOREIGN)])


def test_each_instruction_gets_one_label_of_the_taxonomy_or_a_failure(taught: Taught) -> None:
    tagger, measured = taught
    fakes.check_tags(tagger, encoders.INSTRUCTIONS)
    assert measured is None or (measured.n, measured.trained_on) == (15, 45)


def test_the_same_labels_and_the_same_instructions_give_the_same_tags_to_the_last_bit(
    make: Make, taught: Taught
) -> None:
    another = make()
    tagger, measured = taught
    assert fakes.taught(another, encoders.INSTRUCTIONS) == measured
    found = list(tagger.tag(encoders.INSTRUCTIONS))
    assert list(tagger.tag(encoders.INSTRUCTIONS)) == found
    assert list(another.tag(encoders.INSTRUCTIONS)) == found


def test_labels_outside_the_taxonomy_are_not_learnt(taught: Taught) -> None:
    tagger, measured = taught
    assert measured is None or "sing" not in measured.f1
    tags = dict(tagger.tag([*FOREIGN, *encoders.INSTRUCTIONS])).values()
    assert {tag.task for tag in tags if isinstance(tag, TaskTag)} <= {*encoders.LABELS}


def test_whoever_asks_before_it_is_fitted_is_told(make: Make) -> None:
    with pytest.raises(RoleError, match="before it was fitted"):
        list(make().tag(encoders.INSTRUCTIONS))


def test_too_few_labels_are_an_error_that_names_the_key_unless_none_are_needed(make: Make) -> None:
    tagger = make()
    sample = tagger.sample(encoders.INSTRUCTIONS, 7)
    if not sample:
        assert tagger.fit([]) is None
        assert not (isinstance(tagger, TrainedTagger) and tagger.lacks(1))
        return
    assert isinstance(tagger, TrainedTagger)
    assert (tagger.lacks(11), tagger.lacks(len(sample))) == (True, False)
    with pytest.raises(RoleError, match="too few") as caught:
        tagger.fit([(one, one.text.split()[0]) for one in sample[:9]])
    assert "tagger.labelled" in caught.value.remedy
