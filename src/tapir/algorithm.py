"""TAPIR: task-aware curriculum planning for instruction refinement (METHOD section 3).

The loop of the paper, one method per step. Every step is a stage that keeps what is finished, so running the whole
function again on the same folder continues where it stopped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tapir.config.recipe import Recipe
from tapir.data.duplicates import DuplicateIndex
from tapir.data.run.rows import AnswerRow
from tapir.domain.curriculum import target_distribution
from tapir.domain.difficulty import Difficulty, Split, competence, undivided
from tapir.domain.evaluation import Evaluation
from tapir.domain.instruction import Instruction, Pair
from tapir.domain.judgement import Unscored
from tapir.domain.mixture import Draw, Mixture, Pool, easy_ids, hard_ids, resample
from tapir.domain.roles import Estimator, Roles, SamplingEstimator, Student
from tapir.domain.round import Checkpoint, RoundPlan
from tapir.domain.training import Example
from tapir.stages.answer import Answer, Respond, SavedAnswers
from tapir.stages.base import StageContext
from tapir.stages.evaluate import Evaluate
from tapir.stages.expand import Expand, pair_of, record_draws, seeds_by_task
from tapir.stages.judge import ESTIMATES, EstimateDifficulty, Score, score_null_answers
from tapir.stages.mix import compose, mix_round
from tapir.stages.refine import Refine
from tapir.stages.select import select
from tapir.stages.tag import FitTagger, Tag
from tapir.stages.train import Train, contrast


@dataclass(slots=True)
class Curriculum:
    """The loop and its state.

    Attributes:
        forbidden: texts of every evaluation set; no training example may repeat one of them.
        known: texts of everything that may be trained on, filled when the first expansion needs it.
        pairs: everything that may be trained on, by id: the corpus and all kept expansions.
        task_of: t(x) by id.
        refined: y' by id.
        answered: ỹ by id, as scored last.
        trained: ids of what all rounds drew so far, with the few that training left out (`RunReader.left_out`).
    """

    recipe: Recipe
    roles: Roles
    context: StageContext
    forbidden: DuplicateIndex
    known: DuplicateIndex
    pairs: dict[str, Pair] = field(default_factory=dict)
    task_of: dict[str, str] = field(default_factory=dict)
    refined: dict[str, str] = field(default_factory=dict)
    answered: dict[str, AnswerRow] = field(default_factory=dict)
    trained: set[str] = field(default_factory=set)

    def run(self, corpus: Sequence[Pair]) -> list[Evaluation]:
        """Teach the student; return the evaluations of S_0, S_1, ... S_N."""
        settings = self.recipe.curriculum
        self.pairs = {pair.instruction.id: pair for pair in self.respond(corpus)}
        student = first = self.warm_up()
        self.tag()
        scored = self.score(student)
        self.check_judge(student)
        evaluations = self.evaluate(student)
        for number in range(1, settings.alpha().rounds + 1):
            self.context = replace(self.context, number=number)
            if settings.rescoring == "every-round" and number > 1:
                scored = self.score(student)
            split = self.select(scored)
            plan = self.plan_round(number, split, evaluations)
            need = self.resample(plan, split)
            self.expand(plan, need, split)
            mixture = self.mix(plan, split)
            self.refine(mixture)
            student = self.train(student if settings.continue_from == "previous" else first, mixture, scored)
            evaluations += self.evaluate(student)
        return evaluations

    def respond(self, corpus: Sequence[Pair]) -> list[Pair]:
        """Return D, with the teacher's y where the corpus has none or the recipe wants the teacher's."""
        stage = Respond(self.roles.teacher, self.recipe.chunk, self.roles.unfit)
        return stage.run(self.context, corpus, self.recipe.answers())

    def warm_up(self) -> Checkpoint:
        """Fine-tune S on D to get S_0; S itself where it already follows instructions."""
        epochs = self.recipe.curriculum.warmup_epochs
        if not epochs:
            return self.roles.base
        pairs = [(pair.instruction, pair.response) for pair in self.pairs.values()]
        learnt = self.learns_thoughts
        examples = [Example(x.id, x.text, y.text, x.context, y.thought if learnt else "") for x, y in pairs]
        return Train(self.roles.trainer, epochs, self.roles.resources).run(self.context, self.roles.base, examples)

    def score(self, student: Checkpoint) -> dict[str, Difficulty | Unscored]:
        """Let S answer, ỹ = S(x), and compute MFD(x) = f_J(x, y) - f_J(x, ỹ); or ask the recipe's estimator."""
        pairs, chunk = list(self.pairs.values()), self.recipe.chunk
        if self.one_pool:
            return {}
        if self.roles.estimator:
            return self.estimate(self.roles.estimator, student, ESTIMATES)
        answers = Answer(self.roles.student, chunk).run(self.context, student, [pair.instruction for pair in pairs])
        self.answered = {name: answer for name, answer in answers.items() if answer.text is not None}
        return Score(self.roles.judge, chunk, self.task_of).run(self.context, pairs, answers)

    def estimate(self, estimator: Estimator, student: Checkpoint, table: str) -> dict[str, Difficulty | Unscored]:
        """Let an estimator measure every pair; what it has judged is answered before."""
        pairs, chunk = list(self.pairs.values()), self.recipe.chunk
        if isinstance(estimator, SamplingEstimator):
            samples = estimator.samples(pairs)
            estimator = estimator.of(self.answered_first(table, estimator.student, student, samples))
            chunk = len(pairs) if self.batched else chunk
        return EstimateDifficulty(estimator, chunk, self.task_of, table).run(self.context, student, pairs)

    def check_judge(self, student: Checkpoint) -> None:
        """Measure other estimators and the judge's score of null answers, for the report; the run does not use them."""
        pairs, chunk = list(self.pairs.values()), self.recipe.chunk
        for estimator in self.roles.compared:
            self.estimate(estimator, student, f"compared-{estimator.name}")
        count = getattr(self.recipe.judge, "null_answers", 0)  # a judge of one's own has no such setting
        score = Score(self.roles.judge, chunk, self.task_of, "canary")
        score_null_answers(self.context, score, pairs, count)

    def tag(self) -> None:
        """Fit the tagger and get t(x) for every x, and for held-out instructions without a task."""
        instructions = [pair.instruction for pair in self.pairs.values()]
        FitTagger(self.roles.tagger, self.recipe.chunk).run(self.context, instructions)
        tags = Tag(self.roles.tagger, self.recipe.chunk).run(self.context, [*instructions, *self.roles.untagged()])
        self.task_of = {name: row.task for name, row in tags.items() if row.task is not None}

    def select(self, scored: Mapping[str, Difficulty | Unscored]) -> Split:
        """Find the hard seeds, D_S = {MFD > δ}."""
        if self.one_pool:
            return undivided(list(self.pairs))
        settings, estimator = self.recipe.curriculum, self.roles.estimator
        scale = estimator.scale(settings.difficulty) if estimator else None
        return select(self.context, settings.difficulty_threshold(scale), scored)

    def plan_round(self, number: int, split: Split, evaluations: Sequence[Evaluation]) -> RoundPlan:
        """Set n, α_r and P(t): fixed as in the paper, or adjusted to what the student can do (not in the paper)."""
        settings, taxonomy = self.recipe.curriculum, self.roles.tagger.taxonomy
        able = competence(split, self.task_of, taxonomy.labels, self.trained)
        last = evaluations[-len(self.roles.benchmarks)].tasks if evaluations else {}
        target = target_distribution(
            settings.target.shares,
            taxonomy.target,
            minimum=settings.target.minimum,
            success={task: result.value for task, result in last.items()},
            competence=able,
            counts=Counter(self.task_of[name] for name in self.pairs if name in self.task_of),
        )
        share = settings.hard_share(number, sum(weight * able[task] for task, weight in target.shares.items()))
        return RoundPlan(number, settings.size_of(number), share, target, balanced=settings.target.shares != "pool")

    def resample(self, plan: RoundPlan, split: Split) -> Draw:
        """Count how many hard examples of each task the round needs; what the hard pool lacks is a shortfall."""
        fresh = (name for name in hard_ids(split, self.pairs) if name not in self.used)
        hard, easy, target = self.pool(fresh), self.pool(easy_ids(split)), plan.target if plan.balanced else None
        return resample(hard, easy, plan.size, plan.hard_share, target)

    def expand(self, plan: RoundPlan, need: Draw, split: Split) -> None:
        """Have the teacher write the shortfall from hard seeds of the same task; kept ones join the hard pool."""
        rows = []
        if self.recipe.curriculum.expand:
            if need.shortfall and not self.context.store.has(self.context.path("expansions")):
                self.known.learn_all((name, pair.instruction.user_text) for name, pair in self.pairs.items())
            attempts = self.recipe.curriculum.expand_attempts
            seeds = seeds_by_task((self.pairs[name] for name in split.hard), self.task_of)
            stage = Expand(self.roles.teacher, self.roles.tagger, attempts, self.forbidden, self.roles.unfit)
            rows = stage.run(self.context, need, seeds, self.known)
        for row in rows:
            if row.reason is None and row.task is not None:
                self.pairs[row.id] = pair_of(row, plan.number)
                self.task_of[row.id] = row.task
        record_draws(self.context, need, plan.target, rows)

    def mix(self, plan: RoundPlan, split: Split) -> Mixture:
        """Draw round(α·n) examples from the hard pool and the rest from the easy pool, both by P(t)."""
        hard, easy = self.pool(hard_ids(split, self.pairs)), self.pool(easy_ids(split))
        mixture = mix_round(self.context, plan, hard, easy)
        self.trained |= {*mixture.hard, *mixture.easy}
        return mixture

    def refine(self, mixture: Mixture) -> None:
        """Rewrite y to y' in the style of its task, for what the round trains on and no earlier round rewrote."""
        settings, roles, chunk = self.recipe.curriculum, self.roles, self.recipe.chunk
        if settings.refine:
            prefer = Score(roles.judge, chunk, self.task_of, "preferences").run
            stage = Refine(roles.teacher, chunk, prefer if settings.refine_keep == "judge" else None, roles.unfit)
            drawn = (self.pairs[name] for name in (*mixture.hard, *mixture.easy) if name not in self.refined)
            pending = [pair for pair in drawn if not (self.learns_thoughts and pair.response.thought)]
            self.refined |= stage.run(self.context, pending, self.task_of)

    def train(self, base: Checkpoint, mixture: Mixture, scored: Mapping[str, Difficulty | Unscored]) -> Checkpoint:
        """Fine-tune S_{r-1} on the mixture to get S_r; then on preferences where the recipe asks for them."""
        pool, thoughts = "any" if self.one_pool else "hard", self.learns_thoughts
        rows = compose(self.context, mixture, self.pairs, self.task_of, self.refined, hard=pool, thoughts=thoughts)
        preferences = contrast(self.context, rows, scored, self.answered, self.recipe.preferred_gap())
        examples = [Example(row.id, row.instruction, row.response, row.context, row.thought) for row in rows]
        rounds = self.recipe.curriculum.alpha().rounds
        stage = Train(self.roles.trainer, self.recipe.training.epochs, self.roles.resources, rounds)
        return stage.run(self.context, base, examples, preferences)

    def evaluate(self, student: Checkpoint) -> list[Evaluation]:
        """Measure S_r on held-out instructions, per task; the result goes into the next plan."""
        answering, benchmarks, section = self.roles.student, self.roles.benchmarks, self.recipe.evaluation
        if section.needs_judge or section.kind == "custom":  # a class of one's own may call a judge, too
            prompts = [prompt.instruction for benchmark in benchmarks for prompt in benchmark.prompts()]
            answering = self.answered_first("evaluation", answering, student, prompts)
        chunk = None if self.batched else self.recipe.chunk
        return Evaluate(answering, benchmarks, chunk, self.task_of).run(self.context, student)

    def answered_first(
        self, table: str, student: Student, checkpoint: Checkpoint, instructions: Sequence[Instruction]
    ) -> Student:
        """Return a student of saved answers to what is judged for a table; S itself where that is finished.

        Answers that were made again after a stop would have to be judged, and paid for, again.
        """
        if self.context.store.has(self.context.path(table)):
            return student
        answers = Answer(student, self.recipe.chunk, f"answers-{table}")
        return SavedAnswers(answers.run(self.context, checkpoint, instructions))

    @property
    def batched(self) -> bool:
        """Whether verdicts may come in batches, which are as large as they can be then."""
        return any(endpoint.batch for endpoint in self.recipe.endpoints.values())

    @property
    def one_pool(self) -> bool:
        """Whether no difficulty is measured, so that all instructions are in one pool."""
        return self.recipe.curriculum.difficulty.measured_by == "nobody"

    @property
    def learns_thoughts(self) -> bool:
        """Whether the teacher's thought is learnt before its answer, which therefore stays as it is."""
        return self.recipe.student.thinking == "keep"

    @property
    def used(self) -> set[str]:
        """Ids that are drawn again only if too few others are left (not in the paper)."""
        return self.trained if self.recipe.curriculum.repeats == "last" else set()

    def pool(self, ids: Iterable[str]) -> Pool:
        """Return the tagged ones of `ids` as a pool."""
        return Pool.of(list(ids), self.task_of, self.roles.tagger.taxonomy.labels, self.used)
