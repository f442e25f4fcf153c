"""Trial of the shipped prompts and readers on a real model: what share of its replies can be read, and why not.

    python lab/real/trial.py OUT --data ../shared/data --url http://127.0.0.1:8080/v1 --model NAME
    python lab/real/trial.py OUT --data ../shared/data --recorded    reads the replies in OUT again; calls nobody

The parts are the classes of a run: `LlmTagger` over rows of Alpaca, `LlmJudge` over GPT-4's answer and
text-davinci-003's to the same instruction in both orders, `LlmTeacher` for new instructions and for rewrites. Every
reply is kept in OUT/ledger.sqlite, so a trial that was killed goes on, and a changed reader is tried on the same
replies. Each part in each setting is a file OUT/cell-*.json with what was read of every item; OUT/table.md has all.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

from tapir.config.annotators import LlmJudgeConfig, LlmTaggerConfig, LlmTeacherConfig
from tapir.config.endpoints import EndpointConfig
from tapir.config.recipe import Recipe
from tapir.config.toml import parse
from tapir.data.duplicates import NearDuplicates
from tapir.domain.completion import Completion, Failure, usable
from tapir.domain.instruction import Instruction, Origin, Pair, Response
from tapir.domain.judgement import Unscored
from tapir.domain.progress import SilentProgress
from tapir.domain.roles import Comparison, ExpandRequest, RefineRequest
from tapir.domain.task import TaskTag
from tapir.models.api.ledger import Ledger
from tapir.models.api.protocol import body, digest
from tapir.models.api.session import LEDGER, ApiSession
from tapir.models.context import BuildContext
from tapir.models.judge import LlmJudge
from tapir.models.prompts import PromptSet
from tapir.models.taggers.llm import LlmTagger
from tapir.models.teacher import LlmTeacher
from tapir.runs.corpus import taxonomy

MODEL = "qwen2.5-coder-1.5b-instruct"
NAMES = ("model",)
LONGEST = 2_000  # characters of an instruction with both answers: a small context has room for them
PARTS = ("label", "judge", "expand", "refine")
TASKS = ("Math", "Code Generation", "Reasoning", "Complex Format", "Common-Sense", "Roleplay", "Biology", "Law")


class TrialSession(ApiSession):
    """Calls to the server, or replies from the ledger alone; counts what comes back."""

    def __init__(self, endpoint: EndpointConfig, folder: Path, *, recorded: bool) -> None:
        super().__init__({NAMES[0]: endpoint})
        self.counts: Counter[str] = Counter()
        self._ledger = Ledger(folder / LEDGER) if recorded else None
        if not recorded:
            self.open(folder, "trial", SilentProgress())

    def json_schema(self, endpoints: tuple[str, ...]) -> bool:
        """Whether the trial sends a schema."""
        return all(self.endpoints[name].json_schema is True for name in endpoints)

    def stream(self, endpoints: tuple[str, ...], requests: Iterable[tuple[Any, Any]]) -> Iterator[tuple[Any, Any]]:
        """Yield the replies to requests."""
        replies = self._recorded(requests) if self._ledger else super().stream(endpoints, requests)
        for key, reply in replies:
            self.counts["calls"] += 1
            if isinstance(reply, Completion):
                self.counts["read"] += reply.usage.prompt_tokens
                self.counts["written"] += reply.usage.completion_tokens
                self.counts["cut"] += reply.finish_reason == "length"
            yield key, reply

    def _recorded(self, requests: Iterable[tuple[Any, Any]]) -> Iterator[tuple[Any, Any]]:
        assert self._ledger
        for key, request in requests:
            name = digest(body(self.endpoints[NAMES[0]], request), request.sample)
            yield key, self._ledger.find([name]).get(name) or Failure("not recorded", "no such call in the ledger")


@dataclass
class Cell:
    """One part in one setting: how many of how many items were read, why the others were not, other figures."""

    part: str
    schema: bool
    max_tokens: int
    n: int = 0
    read: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    figures: dict[str, float] = field(default_factory=dict)
    items: list[dict[str, Any]] = field(default_factory=list)

    def add(self, name: str, why: str, **content: Any) -> None:
        """Count an item as read (without a reason) or not."""
        self.n += 1
        self.read += not why
        self.reasons.update([why] if why else [])
        self.items.append({"id": name, "why": why, **content})


class Trial:
    """The rows of a trial, and its parts."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.rows = _rows(options.data, random.Random(options.seed))  # the same for every number of rows

    def cell(self, part: str, *, schema: bool) -> Cell:
        """Run one part in one setting."""
        tokens = {"label": 32, "judge": self.options.max_tokens}.get(part, 1024)
        cell, begun, built = Cell(part, schema, tokens), time.monotonic(), build_context(self.options, schema=schema)
        work: Callable[[Cell, BuildContext], None] = getattr(self, f"_{part}")
        try:
            work(cell, built)
        finally:
            built.session.close()
        counts = built.session.counts  # type: ignore[attr-defined]
        cell.figures |= {name: counts[name] for name in ("calls", "cut", "written")}
        cell.figures["seconds"] = round(time.monotonic() - begun, 1)
        return cell

    def _label(self, cell: Cell, context: BuildContext) -> None:
        tagger = LlmTagger.build(LlmTaggerConfig(kind="llm", endpoints=NAMES), context)
        for name, tag in tagger.tag(pair.instruction for pair, _ in self.rows[: self.options.rows]):
            if isinstance(tag, TaskTag):
                cell.add(name, "", label=tag.task)
            else:
                cell.add(name, tag.kind, message=tag.message)
        cell.figures["labels used"] = len({item["label"] for item in cell.items if not item["why"]})

    def _judge(self, cell: Cell, context: BuildContext) -> None:
        judge = LlmJudge.build(LlmJudgeConfig(kind="llm", endpoints=NAMES, max_tokens=cell.max_tokens), context)
        pairs = self.rows[: self.options.pairs]
        comparisons = [Comparison(pair.instruction, pair.response.text, other) for pair, other in pairs]
        gaps: list[tuple[float, ...]] = []
        scores: list[float] = []
        for name, verdict in judge.judge(comparisons):
            if isinstance(verdict, Unscored):
                cell.add(name, verdict.reason, raw=verdict.raw)
                continue
            gaps.append(tuple(each.reference - each.student for each in verdict))
            scores += [score for each in verdict for score in (each.student, each.reference)]
            shown = [(each.order, each.student, each.reference, each.rationale) for each in verdict]
            cell.add(name, "", scores=shown)
        cell.figures["change sides"] = sum(min(gap) < 0 < max(gap) for gap in gaps)
        cell.figures["one order differs"] = sum(len(set(gap)) > 1 for gap in gaps)
        cell.figures["gap of 0"] = sum(sum(gap) == 0 for gap in gaps)
        cell.figures["GPT-4 ahead"] = sum(sum(gap) > 0 for gap in gaps)
        if scores:
            cell.figures |= {"mean score": round(fmean(scores), 2), "spread": round(pstdev(scores), 2)}

    def _expand(self, cell: Cell, context: BuildContext) -> None:
        teacher = LlmTeacher.build(LlmTeacherConfig(kind="llm", endpoints=NAMES), context)
        tagger = LlmTagger.build(LlmTaggerConfig(kind="llm", endpoints=NAMES), context)
        requests = _seeds(self.options.data)[: self.options.tasks]
        known = NearDuplicates()
        for request in requests:
            for pair in request.seeds:
                known.add(pair.instruction.id, pair.instruction.text)
        fresh: list[tuple[str, Instruction]] = []
        failed = Counter[str]()
        for task, new in teacher.expand(requests):
            if isinstance(new, Failure):
                failed[new.kind] += 1
                cell.add(task, new.kind, message=new.message)
                continue
            if not new.text:
                cell.figures["empty"] = cell.figures.get("empty", 0) + 1
                continue
            duplicate = known.nearest(new.text)
            known.add(new.id, new.text)
            if duplicate:
                cell.items.append({"id": new.id, "why": "near-duplicate", "text": new.text})
            else:
                fresh.append((task, new))
            cell.figures["near-duplicates"] = cell.figures.get("near-duplicates", 0) + bool(duplicate)
            cell.figures["written down"] = cell.figures.get("written down", 0) + 1
        for request in requests:
            if any(task == request.task for task, _ in fresh):
                cell.add(request.task, "")
        tags = dict(tagger.tag(new for _, new in fresh))
        right = sum(isinstance(tag := tags.get(new.id), TaskTag) and tag.task == task for task, new in fresh)
        cell.figures |= {"wanted": sum(request.wanted for request in requests), "tagged as asked": right}
        for task, new in fresh:
            cell.items.append({"id": new.id, "task": task, "text": new.text})

    def _refine(self, cell: Cell, context: BuildContext) -> None:
        teacher = LlmTeacher.build(LlmTeacherConfig(kind="llm", endpoints=NAMES), context)
        pairs = [pair for pair, _ in self.rows[: self.options.rewrites]]
        before = {pair.instruction.id: pair.response.text for pair in pairs}
        ratios: list[float] = []
        for name, reply in teacher.refine(RefineRequest(pair, "Others") for pair in pairs):
            text, why = usable(reply)
            cell.add(name, (why or "").partition(":")[0], text=text, before=before[name])
            if text is not None:
                ratios.append(len(text.split()) / len(before[name].split()))
                cell.figures["unchanged"] = cell.figures.get("unchanged", 0) + (text.strip() == before[name].strip())
        if ratios:
            cell.figures["length of the old"] = round(fmean(ratios), 2)


def build_context(options: argparse.Namespace, *, schema: bool = True) -> BuildContext:
    """Return what a role of a run is built from: the endpoint of the options, its ledger in their folder."""
    endpoint = {
        "base_url": options.url,
        "model": options.model,
        "json_schema": schema,
        "concurrency": options.slots,
        "timeout": 7200,
    }
    llm = {"kind": "llm", "endpoints": [NAMES[0]]}
    recipe: Recipe = parse(
        {
            "corpus": {"kind": "file", "path": "trial.json"},
            "curriculum": {"target": {"taxonomy": "paper"}},
            "endpoints": {NAMES[0]: endpoint},
            "teacher": llm,
            "judge": llm,
            "tagger": llm,
            "evaluation": {"kind": "judged"},
        }
    )
    session = TrialSession(recipe.endpoints[NAMES[0]], options.out, recorded=options.recorded)
    return BuildContext(recipe, session, PromptSet.of({}), taxonomy(recipe))


def _rows(data: Path, chance: random.Random) -> list[tuple[Pair, str]]:
    """Return instructions with GPT-4's answer and that of text-davinci-003, in random order."""
    with gzip.open(data / "seed/alpaca_data.json.gz", "rt", encoding="utf-8") as file:
        others = {(row["instruction"], row["input"]): row["output"] for row in json.load(file)}
    with gzip.open(data / "teacher/alpaca_gpt4_answers_999.json.gz", "rt", encoding="utf-8") as file:
        rows = json.load(file)
    found = []
    for row in rows:
        text = f"{row['instruction']}\n\n{row['input']}".strip()
        other = others.get((row["instruction"], row["input"]), "")
        if other and len(text) + len(row["output"]) + len(other) <= LONGEST:
            instruction = Instruction.of(text, Origin("corpus"))
            found.append((Pair(instruction, Response(row["output"], "gpt-4")), other))
    chance.shuffle(found)
    return found


def _seeds(data: Path) -> list[ExpandRequest]:
    """Return a request for five new instructions of each of some tasks, with three examples labelled by people."""
    lines = (data / "task_types/wizardlm_testset.jsonl").read_text("utf-8").split("\n")
    rows = [json.loads(line) for line in lines if line]
    requests = []
    for task in TASKS:
        texts = sorted((row["Instruction"] for row in rows if row["Skill"] == task), key=len)[:3]
        pairs = [Pair(Instruction.of(text, Origin("corpus")), Response("", "")) for text in texts]
        requests.append(ExpandRequest(task, pairs, wanted=5, seed=7))
    return requests


def table(cells: Sequence[Cell]) -> str:
    """Return the cells as a Markdown table."""
    lines = ["| part | schema | max_tokens | read | not read | calls | cut off | tokens written | else |"]
    lines.append("| --- | --- | ---: | ---: | --- | ---: | ---: | ---: | --- |")
    for cell in cells:
        figures = dict(cell.figures)
        calls, cut, written = (int(figures.pop(name)) for name in ("calls", "cut", "written"))
        why = ", ".join(f"{count} {reason}" for reason, count in Counter(cell.reasons).most_common())
        rest = ", ".join(f"{name} {value:g}" for name, value in figures.items())
        share = f"{cell.read} of {cell.n}"
        schema = "on" if cell.schema else "off"
        lines.append(
            f"| {cell.part} | {schema} | {cell.max_tokens} | {share} | {why} | {calls} | {cut} | {written:,} | {rest} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the cells asked for and write what came out after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="folder with seed/, teacher/ and task_types/")
    parser.add_argument("--url", default="http://127.0.0.1:8080/v1")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--recorded", action="store_true", help="read recorded replies again, call nobody")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--schema", default="off,on")
    parser.add_argument("--rows", type=int, default=26, help="instructions to label")
    parser.add_argument("--pairs", type=int, default=22, help="pairs to judge")
    parser.add_argument("--tasks", type=int, default=len(TASKS), help="tasks to write new instructions of")
    parser.add_argument("--rewrites", type=int, default=12, help="answers to rewrite")
    parser.add_argument("--max-tokens", type=int, default=512, help="longest verdict")
    parser.add_argument("--slots", type=int, default=4, help="calls at once")
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    trial = Trial(options)
    for part in options.parts.split(","):
        for schema in options.schema.split(","):
            if part == "refine" and schema == "on":
                continue  # a rewrite is plain text
            cell = trial.cell(part, schema=schema == "on")
            file = options.out / f"cell-{part}-{schema}-{cell.max_tokens}.json"
            file.write_text(json.dumps(vars(cell), ensure_ascii=False, indent=1), "utf-8")
            print(table([cell]).splitlines()[-1], flush=True)
    cells = [Cell(**json.loads(file.read_text("utf-8"))) for file in sorted(options.out.glob("cell-*.json"))]
    (options.out / "table.md").write_text(table(cells), "utf-8")
    print(f"\n{table(cells)}")


if __name__ == "__main__":
    main()
