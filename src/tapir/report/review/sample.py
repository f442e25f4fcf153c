"""Stratified sample of pairs to rate: the same for every rater, spread over the gap and the tasks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tapir.data.run.reader import RunReader, difficulties
from tapir.data.run.reviews import Side
from tapir.domain.errors import DataError
from tapir.domain.judgement import Unscored
from tapir.domain.randomness import priorities, seed_for

WIDE = 2.0
"""A gap above this is large; δ as recalled for the paper, unverified. The bands are the same for every run."""
NEGATIVE, ZERO, SMALL, LARGE = "student ahead", "equal", f"gap up to {WIDE:g}", f"gap above {WIDE:g}"
UNKNOWN = "not scored"
BANDS = (NEGATIVE, ZERO, SMALL, LARGE, UNKNOWN)


@dataclass(frozen=True, slots=True)
class ReviewPair:
    """One instruction with both answers: ỹ of the student, the reference y, and whose stands on the left."""

    id: str
    instruction: str
    student: str
    reference: str
    left: Side

    @property
    def shown(self) -> tuple[str, str]:
        """The answers as displayed: left, right."""
        return (self.student, self.reference) if self.left == "student" else (self.reference, self.student)


@dataclass(frozen=True, slots=True)
class ReviewSample:
    """The pairs to rate of those available, in the order shown; their number by band of the gap; the run's tasks."""

    pairs: tuple[ReviewPair, ...]
    available: int
    bands: Mapping[str, int]
    tasks: tuple[str, ...]


def draw(run: RunReader, number: int, seed: int, size: int) -> ReviewSample:
    """Draw a stratified sample of the pairs of one round that have both answers.

    Bands of the gap take turns (student ahead, equal, up to 2, above 2); within a turn the task sampled least comes
    next, and then chance decides. Every beginning of the sample is spread like the whole,
    and a larger one begins with the smaller one, so a person may stop anywhere and go on with a larger `size`.
    Where the run has judgements, only scored pairs take part; where it has none, tasks alone are balanced.
    """
    run.choose(run.rounds("answers"), number, "finished answers of the student (with difficulty mfd only)")
    answered = {row.id for row in run.answers(number) if row.text is not None}
    references = {name for name, _, reference in run.references(number) if reference.strip()}
    scored = difficulties(run.judgements(number))  # empty where the run was scored without a judge
    gaps = {name: gap.gap for name, gap in scored.items() if not isinstance(gap, Unscored)}
    task_of = run.tasks(number)
    names = [name for name in answered if name in references]
    if gaps:
        names = [name for name in names if name in gaps]
    if not names:
        raise DataError(
            f"{run.folder}, round {number}: no instruction has both answers"
            + (" and a score" if gaps else "")
            + f" ({len(answered)} answered by the student, {len(references)} by the teacher, {len(gaps)} scored)",
            remedy="`tapir show ID --run FOLDER` shows the history of an instruction, the report counts all.",
        )
    bands = {name: _band(gaps.get(name)) for name in names}
    chosen = list(_stratify(names, bands, task_of, seed_for(seed, "review", number), size))
    return ReviewSample(
        pairs=tuple(_pairs(run, number, seed, chosen)),
        available=len(names),
        bands=Counter(bands[name] for name in chosen),
        tasks=tuple(sorted(set(task_of.values()))),
    )


def _stratify(
    names: Sequence[str], bands: Mapping[str, str], task_of: Mapping[str, str], seed: int, size: int
) -> Iterator[str]:
    """Yield up to `size` names as `draw` describes; ties are decided by the item's own random rank."""
    rank = dict(zip(names, priorities(names, seed).tolist(), strict=True))
    waiting: dict[tuple[str, str], list[str]] = {}
    for name in sorted(names, key=rank.__getitem__, reverse=True):
        waiting.setdefault((bands[name], task_of.get(name, "")), []).append(name)
    from_band, from_task = Counter[str](), Counter[str]()

    def turn(stratum: tuple[str, str]) -> tuple[int, int, int]:
        band, task = stratum
        return from_band[band], from_task[task], rank[waiting[stratum][-1]]

    for _ in range(min(size, len(names))):
        band, task = chosen = min(waiting, key=turn)
        yield waiting[chosen].pop()
        from_band[band] += 1
        from_task[task] += 1
        if not waiting[chosen]:
            del waiting[chosen]


def _band(gap: float | None) -> str:
    if gap is None:
        return UNKNOWN
    if gap <= 0:
        return NEGATIVE if gap else ZERO
    return SMALL if gap <= WIDE else LARGE


def _pairs(run: RunReader, number: int, seed: int, chosen: Sequence[str]) -> Iterator[ReviewPair]:
    """Yield the texts of the chosen pairs in order; only these are held in memory."""
    wanted = set(chosen)
    answers = {row.id: row.text for row in run.answers(number) if row.id in wanted}
    known = {name: (text, reference) for name, text, reference in run.references(number) if name in wanted}
    for name in chosen:
        text, reference = known[name]
        left: Side = "student" if seed_for(seed, "review", "left", name) % 2 else "reference"
        yield ReviewPair(name, text, answers[name] or "", reference, left)
