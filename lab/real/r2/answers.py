"""Answers of a run's last student to its held-out instructions, in the layout of AlpacaEval's `model_outputs.json`.

python lab/real/r2/answers.py RUN --prompts 50 > answers.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from tapir.config.student import LocalStudentConfig
from tapir.data.run.rows import EvaluationRow
from tapir.data.run.store import RunStore
from tapir.domain.completion import usable
from tapir.domain.instruction import Instruction, Origin
from tapir.domain.round import Checkpoint
from tapir.models.local.generate import LocalStudent
from tapir.models.local.loading import ModelSettings
from tapir.runs.build import prepare_student
from tapir.runs.session import stored_recipe


def main() -> None:
    """Answer the first prompts and print the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--prompts", type=int, default=50)
    parser.add_argument("--tokens", type=int, default=256, help="longest answer")
    parser.add_argument("--before", action="store_true", help="the student before any round")
    options = parser.parse_args()
    store, recipe = RunStore(options.run), stored_recipe(options.run)
    number = 0 if options.before else recipe.curriculum.alpha().rounds
    path = str(store.round(number) / "checkpoint") if number else prepare_student(recipe).path
    assert isinstance(recipe.student, LocalStudentConfig)
    section = recipe.student.model_copy(update={"max_new_tokens": options.tokens})
    student = LocalStudent(section, recipe.seed, ModelSettings.of(section))
    rows = store.read("round-0/evaluation", EvaluationRow)[: options.prompts]
    asked = {row.instruction: Instruction.of(row.instruction, Origin("corpus")) for row in rows}
    replies = dict(student.answer(Checkpoint(path, number), list(asked.values())))
    name = "before" if options.before else f"{options.run.parent.name} {options.run.name}"
    print(
        json.dumps(
            [
                {"instruction": text, "output": usable(replies[one.id])[0] or "", "generator": name}
                for text, one in asked.items()
            ],
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
