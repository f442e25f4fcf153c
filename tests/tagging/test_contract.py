"""What every tagger that is learnt or loaded here has in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import pytest

from tapir.domain.completion import Failure
from tapir.domain.task import TaskTag
from tapir.errors import RoleError
from tapir.roles import Tagger, TaggerReport
from tapir.tagging.tfidf import TfidfTagger
from tests import fakes
from tests.tagging import encoders

Make: TypeAlias = Callable[[], Tagger]


@pytest.fixture(scope="module", params=["tfidf", "modernbert", "deberta", "published", "abstaining"])
def make(request: pytest.FixtureRequest, bare: dict[str, Path], run: Path) -> Make:
    """A new tagger of one sort."""
    makers: dict[str, Make] = {
        "tfidf": lambda: TfidfTagger(encoders.TAXONOMY, encoders.truth, labelled=60, held_out=0.25),
        "modernbert": lambda: encoders.tagger(bare["modernbert"]),
        "deberta": lambda: encoders.tagger(bare["deberta"]),
        "published": lambda: encoders.tagger(run / "tagger", labelled=0),
        "abstaining": lambda: encoders.tagger(bare["modernbert"], epochs=3, abstain_below=0.6),
    }
    return makers[request.param]


@dataclass(frozen=True)
class Taught:
    """A fitted tagger and what fitting said."""

    tagger: Tagger
    measured: TaggerReport | None


@pytest.fixture(scope="module")
def taught(make: Make) -> Taught:
    """One that is fitted."""
    tagger = make()
    return Taught(tagger, fakes.taught(tagger, encoders.INSTRUCTIONS))


def test_each_instruction_gets_one_label_of_the_taxonomy_or_a_failure(taught: Taught) -> None:
    tagger, measured = taught.tagger, taught.measured
    found = list(tagger.tag(iter(encoders.INSTRUCTIONS)))
    assert sorted(name for name, _ in found) == sorted(one.id for one in encoders.INSTRUCTIONS)
    for _, tag in found:
        if isinstance(tag, Failure):
            assert tag.kind
        else:
            assert tag.task in encoders.LABELS
            assert 0 <= tag.confidence <= 1
    assert measured is None or (measured.n, measured.trained_on) == (15, 45)
    assert list(tagger.tag([])) == []


def test_the_same_labels_and_the_same_instructions_give_the_same_tags_to_the_last_bit(
    make: Make, taught: Taught
) -> None:
    another = make()
    assert fakes.taught(another, encoders.INSTRUCTIONS) == taught.measured
    found = list(taught.tagger.tag(encoders.INSTRUCTIONS))
    assert list(taught.tagger.tag(encoders.INSTRUCTIONS)) == found
    assert list(another.tag(encoders.INSTRUCTIONS)) == found


def test_the_tag_of_an_instruction_does_not_depend_on_the_others(taught: Taught) -> None:
    tagger = taught.tagger
    together = dict(tagger.tag(encoders.INSTRUCTIONS))
    for one in encoders.INSTRUCTIONS[::20]:
        ((name, tag),) = tagger.tag([one])
        other = together[name]
        if isinstance(tag, TaskTag):
            assert isinstance(other, TaskTag)
            assert tag.task == other.task
            assert tag.confidence == pytest.approx(other.confidence, abs=1e-5)
        else:
            assert isinstance(other, Failure)
            assert tag.kind == other.kind


def test_labels_outside_the_taxonomy_are_not_learnt(make: Make) -> None:
    tagger = make()
    labelled = [(one, one.text.split()[0]) for one in tagger.sample(encoders.INSTRUCTIONS, 7)]
    strange = [(encoders.instruction("sing", number), "sing") for number in range(20)]
    measured = tagger.fit([*labelled, *strange])
    assert measured is None or "sing" not in measured.f1
    assert all(tag.task in encoders.LABELS for _, tag in tagger.tag(encoders.INSTRUCTIONS) if isinstance(tag, TaskTag))


def test_whoever_asks_before_it_is_fitted_is_told(make: Make) -> None:
    with pytest.raises(RoleError, match="before it was fitted"):
        list(make().tag(encoders.INSTRUCTIONS))


def test_too_few_labels_are_an_error_that_names_the_key_unless_none_are_needed(make: Make) -> None:
    tagger = make()
    sample = tagger.sample(encoders.INSTRUCTIONS, 7)
    if not sample:
        assert tagger.fit([]) is None
        return
    with pytest.raises(RoleError, match="too few") as caught:
        tagger.fit([(one, one.text.split()[0]) for one in sample[:9]])
    assert "tagger.labelled" in caught.value.remedy
