"""TAPIR: task-aware curriculum planning for instruction refinement (METHOD section 3).

The method and nothing else. Every verb is a stage that keeps what is finished, so the whole function
may be run again on the same folder and goes on where it was.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

from tapir.curriculum import CompetenceSchedule
from tapir.data.novelty import Novelty
from tapir.domain.difficulty import Difficulty, Split, competence, undivided
from tapir.domain.instruction import Instruction, Pair, Response
from tapir.domain.judgement import Unscored
from tapir.domain.mixture import Draw, Mixture, Pool
from tapir.domain.randomness import priorities, seed_for
from tapir.domain.round import Checkpoint, Evaluation, RoundPlan
from tapir.domain.schedule import following
from tapir.domain.task import TaskDistribution
from tapir.recipe import Recipe
from tapir.roles import Example, Preference, Roles
from tapir.stages.answer import Answer
from tapir.stages.estimate import Estimate
from tapir.stages.evaluate import Evaluate
from tapir.stages.expand import Expand, draw_rows, pair_of
from tapir.stages.judge import Score
from tapir.stages.label import Label
from tapir.stages.mix import Mix
from tapir.stages.refine import Refine
from tapir.stages.resample import Resample
from tapir.stages.respond import Respond
from tapir.stages.select import Select
from tapir.stages.tag import Tag
from tapir.stages.train import Train
from tapir.store.keep import Place
from tapir.store.rows import AnswerRow, ContrastRow, DrawRow, MixtureRow

NULL_ANSWER = "I am not sure, but I hope this helps."


@dataclass(slots=True)
class Curriculum:
    """The loop and what it knows so far.

    Attributes:
        forbidden: the texts of every evaluation set; nothing trained on may repeat one of them.
        known: the texts of everything that may be trained on, filled when the first expansion needs it.
        pairs: everything that may be trained on, by id: the corpus and all expansions kept.
        task_of: t(x) by id.
        refined: y' by id.
        answered: ỹ by id, as it was scored last.
        trained: ids of every example of the rounds so far.
    """

    recipe: Recipe
    roles: Roles
    place: Place
    forbidden: Novelty
    known: Novelty
    pairs: dict[str, Pair] = field(default_factory=dict)
    task_of: dict[str, str] = field(default_factory=dict)
    refined: dict[str, str] = field(default_factory=dict)
    answered: dict[str, str] = field(default_factory=dict)
    trained: set[str] = field(default_factory=set)

    def run(self, corpus: Sequence[Pair]) -> list[Evaluation]:
        """Teach the student; returns every evaluation of S_0, S_1, ... S_N."""
        plan = self.recipe.curriculum
        self.pairs = {pair.instruction.id: pair for pair in self.respond(corpus)}
        student = first = self.warm_up()
        self.tag()
        scored = self.score(student)
        self.compare(student)
        self.canary()
        evaluations = self.evaluate(student)
        for number in range(1, plan.alpha().rounds + 1):
            self.place = replace(self.place, number=number)
            if plan.rescoring == "every-round" and number > 1:
                scored = self.score(student)
            split = self.select(scored)
            goal = self.goal(number, split, evaluations)
            need = self.resample(goal, split)
            self.expand(goal, need, split)
            mixture = self.mix(goal, split)
            self.refine(mixture)
            student = self.train(student if plan.continue_from == "previous" else first, mixture, scored)
            evaluations += self.evaluate(student)
        return evaluations

    def respond(self, corpus: Sequence[Pair]) -> list[Pair]:
        """D with the teacher's y where the corpus brings none, or none that is wanted."""
        wanted = self.recipe.answers()
        owed = [pair.instruction for pair in corpus if wanted == "teacher" or not pair.response.text.strip()]
        if wanted == "corpus" or not owed:
            return list(corpus)
        rows = Respond(self.roles.teacher, self.recipe.chunk).run(self.place, owed)
        written = {row.id: Response(row.text, row.author) for row in rows if row.text is not None}
        failed = {row.id for row in rows if row.text is None}
        answered = (replace(pair, response=written.get(pair.instruction.id, pair.response)) for pair in corpus)
        return [pair for pair in answered if pair.instruction.id not in failed]

    def warm_up(self) -> Checkpoint:
        """S_0 = fine-tune S on D, or S itself where it already follows instructions."""
        epochs = self.recipe.curriculum.warmup_epochs
        if not epochs:
            return self.roles.base
        pairs = self.pairs.values()
        examples = [Example(one.instruction.id, one.instruction.text, one.response.text) for one in pairs]
        return Train(self.roles.trainer, epochs, self.roles.resources).run(self.place, self.roles.base, examples)

    def score(self, student: Checkpoint) -> dict[str, Difficulty | Unscored]:
        """ỹ = S(x), then MFD(x) = f_J(x, y) - f_J(x, ỹ), for everything known so far; or another estimator's word."""
        if self.recipe.curriculum.difficulty.kind == "none":
            return {}
        pairs = list(self.pairs.values())
        if self.roles.estimator:
            return Estimate(self.roles.estimator, self.recipe.chunk, self.task_of).run(self.place, student, pairs)
        answers = Answer(self.roles.student, self.recipe.chunk).run(
            self.place, student, [pair.instruction for pair in pairs]
        )
        self.answered = {name: one.text for name, one in answers.items() if one.text is not None}
        return Score(self.roles.judge, self.recipe.chunk, self.task_of).run(self.place, pairs, answers)

    def compare(self, student: Checkpoint) -> None:
        """What other estimators say of the corpus, for the rank correlations; it changes nothing."""
        for one in self.roles.compared:
            stage = Estimate(one, self.recipe.chunk, self.task_of, f"compared-{one.name}")
            stage.run(self.place, student, list(self.pairs.values()))

    def canary(self) -> None:
        """A constant answer, judged like the student's: a judge that likes it measures nothing."""
        count = getattr(self.recipe.judge, "null_answers", 0)
        ids = list(self.pairs)
        order = priorities(ids, seed_for(self.place.seed, "canary")).argsort(kind="stable")[:count]
        pairs = [self.pairs[ids[place]] for place in order]
        if pairs:
            answers = {one.instruction.id: AnswerRow(one.instruction.id, NULL_ANSWER, "stop", 0, None) for one in pairs}
            Score(self.roles.judge, self.recipe.chunk, self.task_of, "canary").run(self.place, pairs, answers)

    def tag(self) -> None:
        """t(x) for every x, and for held-out instructions that come without."""
        instructions = [pair.instruction for pair in self.pairs.values()]
        report = Label(self.roles.tagger, self.recipe.chunk).run(self.place, instructions)
        self.place.store.once_json(self.place.named("tagger"), lambda: asdict(report) if report else {})
        tags = Tag(self.roles.tagger, self.recipe.chunk).run(self.place, [*instructions, *untagged(self.roles)])
        self.task_of = {name: row.task for name, row in tags.items() if row.task is not None}

    def select(self, scored: Mapping[str, Difficulty | Unscored]) -> Split:
        """D_S = {MFD > δ}."""
        if self.recipe.curriculum.difficulty.kind == "none":
            return undivided(list(self.pairs))
        return Select(self.recipe.curriculum.delta()).run(self.place, list(scored), scored)

    def goal(self, number: int, split: Split, evaluations: Sequence[Evaluation]) -> RoundPlan:
        """n, α_r and P(t): as planned, or following what the student can do (beyond the paper)."""
        plan, labels = self.recipe.curriculum, self.roles.tagger.taxonomy.labels
        able = competence(split, self.task_of, labels, self.trained)
        share, target = plan.alpha().share(number), self.target(evaluations, able)
        if isinstance(plan.schedule, CompetenceSchedule):
            overall = sum(weight * able[task] for task, weight in target.shares.items())
            share = following(plan.schedule.start, plan.schedule.end, overall)
        return RoundPlan(number, plan.size, share, target, balanced=plan.target.shares != "pool")

    def target(self, evaluations: Sequence[Evaluation], able: Mapping[str, float]) -> TaskDistribution:
        """P(t): fixed as in the paper, or leant towards tasks where the last evaluation or scoring left room."""
        target, shares = self.recipe.curriculum.target, self.roles.tagger.taxonomy.target
        match target.shares:
            case "room":
                last = evaluations[-len(self.roles.benchmarks)]
                return shares.leaning({task: 1 - result.value for task, result in last.tasks.items()}, target.minimum)
            case "competence":
                return shares.leaning({task: 1 - share for task, share in able.items()}, target.minimum)
            case "pool":
                counts = Counter(self.task_of[name] for name in self.pairs if name in self.task_of)
                return TaskDistribution.of({label: float(counts[label]) for label in shares.labels})
            case _:
                return shares

    def resample(self, goal: RoundPlan, split: Split) -> Draw:
        """How many examples of each task the round needs; what the hard pool lacks is a shortfall."""
        fresh = [name for name in self._hard(split) if name not in self._again()]
        return Resample().run(self.place, goal, self._pool(fresh), self._pool(self._easy(split)))

    def expand(self, goal: RoundPlan, need: Draw, split: Split) -> None:
        """The teacher writes the shortfall from hard seeds of the same task; what is kept joins the hard pool."""
        rows = []
        if self.recipe.curriculum.expand:
            seeds: dict[str, list[Pair]] = {}
            for name in split.hard:
                if name in self.task_of:
                    seeds.setdefault(self.task_of[name], []).append(self.pairs[name])
            self.known.learn_all((name, pair.instruction.text) for name, pair in self.pairs.items())
            attempts = self.recipe.curriculum.expand_attempts
            stage = Expand(self.roles.teacher, self.roles.tagger, attempts, self.forbidden)
            rows = stage.run(self.place, need, seeds, self.known)
        for row in rows:
            if row.reason is None and row.task is not None:
                self.pairs[row.id] = pair_of(row, goal.number)
                self.task_of[row.id] = row.task
        self.place.store.once(self.place.named("draws"), DrawRow, lambda: draw_rows(need, goal.target.shares, rows))

    def mix(self, goal: RoundPlan, split: Split) -> Mixture:
        """round(α·n) examples from the hard pool, the rest from the easy pool, both by P(t)."""
        mixture = Mix().run(self.place, goal, self._pool(self._hard(split)), self._pool(self._easy(split)))
        self.trained |= {*mixture.hard, *mixture.easy}
        return mixture

    def refine(self, mixture: Mixture) -> None:
        """Rewrite y to y' for what the round trains on: the result of refining the whole pool, without its cost.

        Each pair once in a run, but for those whose rewrite failed: a later round that draws them asks again.
        """
        if not self.recipe.curriculum.refine:
            return
        owed = [self.pairs[name] for name in (*mixture.hard, *mixture.easy) if name not in self.refined]
        rows = Refine(self.roles.teacher, self.recipe.chunk).run(self.place, owed, self.task_of)
        written = {row.id: row.text for row in rows if row.text is not None}
        if self.recipe.curriculum.refine_keep == "judge":
            written = self.preferred(written)
        self.refined |= written

    def preferred(self, written: Mapping[str, str]) -> dict[str, str]:
        """Those y' that the judge finds at least as good as y (METHOD 4.10); what it cannot judge stays as it was."""
        pairs = [self.pairs[name] for name in written]
        answers = {name: AnswerRow(name, text, "stop", 0, None) for name, text in written.items()}
        stage = Score(self.roles.judge, self.recipe.chunk, self.task_of, "preferences")
        found = stage.run(self.place, pairs, answers)
        return {name: written[name] for name, gap in found.items() if isinstance(gap, Difficulty) and gap.gap <= 0}

    def train(self, base: Checkpoint, mixture: Mixture, scored: Mapping[str, Difficulty | Unscored]) -> Checkpoint:
        """S_r = fine-tune S_{r-1} on the mixture."""
        rows = self.place.store.once(self.place.named("mixture"), MixtureRow, lambda: self._composed(mixture))
        examples = [Example(row.id, row.instruction, row.response) for row in rows]
        rounds = self.recipe.curriculum.alpha().rounds
        stage = Train(self.roles.trainer, self.recipe.training.epochs, self.roles.resources, rounds)
        return stage.run(self.place, base, examples, self.contrast(rows, scored))

    def contrast(self, mixture: Sequence[MixtureRow], scored: Mapping[str, Difficulty | Unscored]) -> list[Preference]:
        """Beyond the paper, where the recipe asks for it: y (or y') is preferred to ỹ where the gap is large."""
        least = self.recipe.preferred_gap()
        if least is None:
            return []
        rows = [
            ContrastRow(row.id, row.instruction, row.response, self.answered[row.id], found.gap)
            for row in mixture
            if isinstance(found := scored.get(row.id), Difficulty) and found.gap >= least and row.id in self.answered
        ]
        kept = self.place.store.once(self.place.named("contrasts"), ContrastRow, lambda: rows)
        return [Preference(row.id, row.instruction, row.chosen, row.rejected) for row in kept]

    def evaluate(self, student: Checkpoint) -> list[Evaluation]:
        """S_r on held-out instructions, per task; the result goes into the next plan."""
        at_once = any(one.batch for one in self.recipe.endpoints.values())
        stage = Evaluate(self.roles.student, self.roles.benchmarks, self.recipe.chunk, self.task_of, at_once)
        found = stage.run(self.place, student)
        self.place.store.once_json(self.place.named("metrics"), lambda: [asdict(one) for one in found])
        return found

    def _hard(self, split: Split) -> list[str]:
        """D_P: the hard seeds and everything expanded from them that has no later score against it."""
        judged = {*split.easy, *split.hopeless, *split.unscored}
        expanded = (name for name, pair in self.pairs.items() if pair.instruction.origin.kind == "expansion")
        seeds = set(split.hard)
        return [*split.hard, *(name for name in expanded if name not in judged and name not in seeds)]

    def _easy(self, split: Split) -> list[str]:
        """D without D_S, and without answers that the student beat."""
        return [name for name in split.easy if name not in split.withheld]

    def _again(self) -> set[str]:
        """What would be trained on again, where the recipe wants that only in need (beyond the paper)."""
        return self.trained if self.recipe.curriculum.repeats == "last" else set()

    def _pool(self, ids: Sequence[str]) -> Pool:
        return Pool.of(ids, self.task_of, self.roles.tagger.taxonomy.labels, self._again())

    def _composed(self, mixture: Mixture) -> list[MixtureRow]:
        one_pool = self.recipe.curriculum.difficulty.kind == "none"
        hard = "any" if one_pool else "hard"
        tagged = [*((name, hard) for name in mixture.hard), *((name, "easy") for name in mixture.easy)]
        return [self._example(name, pool) for name, pool in sorted(tagged)]

    def _example(self, name: str, pool: str) -> MixtureRow:
        pair = self.pairs[name]
        return MixtureRow(
            id=name,
            instruction=pair.instruction.text,
            response=self.refined.get(name, pair.response.text),
            task=self.task_of[name],
            pool=pool,
            origin=pair.instruction.origin.kind,
            refined=name in self.refined,
        )


def untagged(roles: Roles) -> list[Instruction]:
    """Held-out instructions whose benchmark leaves the task to the tagger."""
    prompts = (prompt for benchmark in roles.benchmarks for prompt in benchmark.prompts() if not prompt.task)
    return list({prompt.instruction.id: prompt.instruction for prompt in prompts}.values())
