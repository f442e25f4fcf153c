"""Estimators of difficulty in the place of the judge: IFD, pass rate, length; and the scale of every estimator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from inspect import signature
from math import fsum, isfinite
from typing import Any, Self, TypeAlias

from tapir.config.curriculum import AnyDifficulty, IfdConfig, LengthConfig, PassRateConfig
from tapir.domain.completion import Completion, Failure
from tapir.domain.difficulty import EstimateCost, Scale, difficulty
from tapir.domain.instruction import Instruction, Pair, instruction_id, messages
from tapir.domain.judgement import Unscored
from tapir.domain.roles import Comparison, Estimate, Estimator, Judge, PlainRole, Student, answers
from tapir.domain.round import Checkpoint
from tapir.models.context import BuildContext
from tapir.models.local.loading import LoadedCheckpoint, ModelSettings, position_limit
from tapir.models.local.template import before_answer
from tapir.models.memory import OutOfMemory, free_memory

MFD = Scale(
    name="MFD",
    label="MFD",
    axis="MFD: the teacher's score minus the student's",
    about="MFD is the teacher's score minus the student's, both from 1 to 10.",
    number=".2f",
    signed=True,
    judged=True,
    bar=0.5,
    span=(0.0, 9.0),
    ticks="d",
    floor=0.0,
)
"""Of the difficulty that student and judge measure in the stages `answer` and `judge`."""

_Text: TypeAlias = tuple[Sequence[int], Sequence[int]]  # the tokens before an answer, and its own

_SHARES = 20  # a histogram of more shares than this would be a comb
_IGNORED = -100
_BATCH_TOKENS = 8192
_LOGITS = 2**28  # numbers of a batch's logits: a gigabyte


def cost_of(section: AnyDifficulty) -> EstimateCost:
    """Return what measuring difficulty takes for one instruction."""
    if section.measured_by == "estimator":
        return section.load().cost(section)  # type: ignore[no-any-return]
    return EstimateCost(answers=1, verdicts=1) if section.measured_by == "judge" else EstimateCost()


def scale_of(section: AnyDifficulty) -> Scale | None:
    """Return the scale of a recipe's difficulty; None where nothing is measured."""
    if section.measured_by == "estimator":
        return section.load().scale(section)  # type: ignore[no-any-return]
    return MFD if section.measured_by == "judge" else None


class Ifd(LoadedCheckpoint, Estimator):
    """Instruction-following difficulty after Li et al. 2024 ("From Quantity to Quality", NAACL).

    The student's mean loss per token of the teacher's answer, with the instruction before it, divided by the same
    without the instruction. Near 1 the instruction hardly helps: the student does not see how the two belong together.
    Above 1 it does harm, which speaks of a wrong answer (`curriculum.threshold.most = 1` drops those).

    Both losses are over all tokens of the answer, which follows what it follows in training (an empty thought among it,
    where the template writes one). Without the instruction it follows the token that begins a text, or,
    where the tokenizer has none, the one that ends the text before.
    """

    name = "ifd"

    @classmethod
    def build(cls, section: IfdConfig, context: BuildContext) -> Self:
        """Make the estimator of a run."""
        return cls(ModelSettings.of(context.recipe.student))

    @classmethod
    def scale(cls, section: IfdConfig) -> Scale:
        """Return a scale of ratios."""
        return Scale(
            name="IFD",
            label="difficulty (ifd)",
            axis="IFD: loss with the instruction by loss without it",
            about=(
                "IFD is the student's mean loss per token of the teacher's answer with the instruction before it,"
                " divided by that without it: near 1 the instruction hardly helps, above 1 it misleads."
            ),
            number=".3f",
        )

    @classmethod
    def cost(cls, section: IfdConfig) -> EstimateCost:
        """Return one pass with the instruction and one without."""
        return EstimateCost(passes=2)

    def estimate(
        self, checkpoint: Checkpoint, pairs: Sequence[Pair], tasks: Mapping[str, str]
    ) -> Iterator[tuple[str, Estimate | Unscored]]:
        """Yield the ratio for every pair; an empty answer, or one too long to read, has none."""
        model, tokenizer = self.load(checkpoint)
        limit = position_limit(model.config)
        first = [next(token for token in (tokenizer.bos_token_id, tokenizer.eos_token_id, 0) if token is not None)]
        texts: dict[str, tuple[list[int], list[int]]] = {}
        chats = [messages(x.text, x.context, pair.response.text) for pair in pairs for x in [pair.instruction]]
        prompts = tokenizer([before_answer(tokenizer, chat) for chat in chats], add_special_tokens=False)["input_ids"]
        answers = tokenizer([pair.response.text for pair in pairs], add_special_tokens=False)["input_ids"]
        for pair, prompt, answer in zip(pairs, prompts, answers, strict=True):
            name = pair.instruction.id
            if not answer:
                yield name, Unscored("the answer is empty")
            elif limit and len(prompt) + len(answer) > limit:
                yield name, Unscored("too long for the student", f"{len(prompt) + len(answer)} tokens")
            else:
                texts[name] = prompt, answer
        given = self._losses(model, tokenizer, list(texts.values()))
        alone = self._losses(model, tokenizer, [(first, answer) for _, answer in texts.values()])
        for name, with_it, without in zip(texts, given, alone, strict=True):
            if with_it is None or without is None:
                yield name, Unscored("too long for the memory", f"{sum(map(len, texts[name]))} tokens")
                continue
            losses = f"loss {with_it:.4f} with, {without:.4f} without"
            if not (isfinite(with_it) and isfinite(without)):
                yield name, Unscored("the loss is no number", losses)
            elif without > 0:
                yield name, Estimate(with_it / without, losses)
            else:
                yield name, Unscored("the answer needs no instruction", losses)

    @staticmethod
    def _losses(model: Any, tokenizer: Any, texts: Sequence[_Text]) -> list[float | None]:
        """Return the mean loss per answer token for each (before, answer); None where memory ran out."""
        losses: dict[int, float | None] = {}
        room = min(_BATCH_TOKENS, _LOGITS // model.get_input_embeddings().num_embeddings)
        order = sorted(range(len(texts)), key=lambda place: (len(texts[place][0]) + len(texts[place][1]), place))
        while order:
            longest = sum(map(len, texts[order[-1]]))
            rows, order = order[-max(1, room // longest) :], order[: -max(1, room // longest)]
            batch = [texts[row] for row in rows]
            losses |= zip(rows, _within_memory(model, tokenizer.pad_token_id, batch, room), strict=True)
        return [losses[place] for place in range(len(texts))]


def _within_memory(model: Any, pad: int, texts: Sequence[_Text], room: int) -> list[float | None]:
    """Return the mean losses; where memory runs out each text's by itself, None for one that needs more even so."""
    with OutOfMemory():
        return [*_batch(model, pad, texts, room)]
    free_memory()
    return [loss for text in texts for loss in _within_memory(model, pad, [text], room)] if len(texts) > 1 else [None]


def _batch(model: Any, pad: int, texts: Sequence[_Text], room: int) -> list[float]:
    """Return the mean losses; of a text longer than `room`, which comes alone, only the answer's logits are kept."""
    import torch
    from torch.nn.functional import cross_entropy
    from torch.nn.utils.rnn import pad_sequence

    rows = [torch.tensor([*before, *answer]) for before, answer in texts]
    wanted_rows = [torch.tensor([_IGNORED] * len(before) + list(answer)) for before, answer in texts]
    ids = pad_sequence(rows, batch_first=True, padding_value=pad)
    labels = pad_sequence(wanted_rows, batch_first=True, padding_value=_IGNORED)
    mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    long = ids.shape[1] > room and "logits_to_keep" in signature(model.forward).parameters
    keep = {"logits_to_keep": len(texts[0][1]) + 1} if long else {}
    with torch.inference_mode():
        logits = model(ids.to(model.device), attention_mask=mask.to(model.device), **keep).logits[:, :-1]
        wanted = labels[:, -logits.shape[1] :].to(model.device)
        parts = [
            cross_entropy(part.float().transpose(1, 2), next_, ignore_index=_IGNORED, reduction="none")
            for part, next_ in zip(torch.split(logits, room, 1), torch.split(wanted, room, 1), strict=True)
        ]
        means: list[float] = (torch.cat(parts, dim=1).sum(dim=1) / (wanted != _IGNORED).sum(dim=1)).tolist()
    return means


class Length(PlainRole, Estimator):
    """The length of the teacher's answer in characters: the baseline of "Long Is More" (Zhao et al. 2024, ICML)."""

    name = "length"

    @classmethod
    def scale(cls, section: LengthConfig) -> Scale:
        """Return a scale of characters."""
        return Scale(
            name="length",
            label="difficulty (length)",
            axis="length of the teacher's answer, in characters",
            about="Difficulty is the length of the teacher's answer in characters: nobody was asked how hard it is.",
            number=",.0f",
            ticks=",d",
        )

    def estimate(
        self, checkpoint: Checkpoint, pairs: Sequence[Pair], tasks: Mapping[str, str]
    ) -> Iterator[tuple[str, Estimate | Unscored]]:
        """Yield the length of every answer; the student is not asked.

        Many answers are equally long, and a threshold by quantile or budget never takes a part of equals. So each has a
        fraction of a character more, which is its id's: as good as random, and the same in every run.
        """
        for pair in pairs:
            length = len(pair.response.text)
            fraction = int(pair.instruction.id, 16) / 16 ** len(pair.instruction.id)
            yield pair.instruction.id, Estimate(length + fraction, f"{length} characters")


class PassRate(Estimator):
    """1 minus the share of samples that the judge finds at least as good as the teacher's answer.

    0 is always solved, 1 never; where the samples are better on average (MFD below 0), minus the share that is.
    """

    name = "pass-rate"

    def __init__(self, section: PassRateConfig, student: Student, judge: Judge) -> None:
        self.student = student
        self._judge = judge
        self._samples = section.samples

    @classmethod
    def build(cls, section: PassRateConfig, context: BuildContext) -> Self:
        """Make the estimator of a run."""
        if context.judge is None or context.sampling_student is None:
            raise ValueError("the pass rate is built after the judge, with a student that samples")
        return cls(section, context.sampling_student(section.temperature), context.judge)

    @classmethod
    def scale(cls, section: PassRateConfig) -> Scale:
        """Return a scale of shares."""
        bar = 1 / min(section.samples, _SHARES)
        return Scale(
            name="share of failures",
            label="difficulty (pass-rate)",
            axis="share of sampled answers that fail",
            about=(
                f"Difficulty is the share of {section.samples} sampled answers (temperature {section.temperature:g})"
                " that the judge finds worse than the teacher's: 0 % is always solved, 100 % never, below 0 % outdone."
            ),
            number=".1%",
            judged=True,
            bar=bar,
            span=(0.0, 1.0),
            tick=bar,
            ticks=".0%",
            floor=0.0,
        )

    @classmethod
    def cost(cls, section: PassRateConfig) -> EstimateCost:
        """Return an answer and a comparison for every sample."""
        return EstimateCost(answers=section.samples, verdicts=section.samples)

    def of(self, student: Student) -> PassRate:
        """Return the same estimator of another student."""
        other = copy(self)
        other.student = student
        return other

    def samples(self, pairs: Sequence[Pair]) -> list[Instruction]:
        """Return each instruction as often as it is answered."""
        return [sample for _, sample in self._sampled(pairs).values()]

    def _sampled(self, pairs: Sequence[Pair]) -> dict[str, tuple[Pair, Instruction]]:
        return {  # each with its own randomness
            (name := instruction_id(f"{pair.instruction.id}/{number}")): (pair, replace(pair.instruction, id=name))
            for pair in pairs
            for number in range(self._samples)
        }

    def estimate(
        self, checkpoint: Checkpoint, pairs: Sequence[Pair], tasks: Mapping[str, str]
    ) -> Iterator[tuple[str, Estimate | Unscored]]:
        """Yield the share of samples that fail: the student's own failures, and those that the judge finds worse.

        What the judge could not read is left out; without a judged sample there is no estimate.
        """
        samples = self._sampled(pairs)
        ((_, replies),) = answers(self.student, checkpoint, [[sample for _, sample in samples.values()]])
        given = dict(replies)
        comparisons = [
            Comparison(sample, pair.response.text, reply.text, tasks.get(pair.instruction.id, ""))
            for name, (pair, sample) in samples.items()
            if isinstance(reply := given[name], Completion)
        ]
        outcomes: dict[str, list[float]] = {pair.instruction.id: [] for pair in pairs}
        failed = Counter(pair.instruction.id for name, (pair, _) in samples.items() if isinstance(given[name], Failure))
        for name, verdict in self._judge.judge(comparisons):
            if verdict and not isinstance(verdict, Unscored):
                outcomes[samples[name][0].instruction.id].append(difficulty(verdict).gap)
        for name, gaps in outcomes.items():
            if gaps:
                passed, n = sum(gap <= 0 for gap in gaps), len(gaps) + failed[name]
                value = -sum(gap < 0 for gap in gaps) / n if fsum(gaps) < 0 else 1 - passed / n
                yield name, Estimate(value, f"{passed} of {n} samples pass")
            else:
                yield name, Unscored("no sample was judged", f"{failed.total()} answers of the chunk failed")
