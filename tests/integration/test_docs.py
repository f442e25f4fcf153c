"""The classes of docs/extending.md, as they stand there, take part in a run."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from support import fakes
from support.paths import ROOT
from support.server import Behaviour, serving
from tapir.config.recipe import Recipe
from tapir.config.toml import parse
from tapir.data.run.rows import EstimateRow, EvaluationRow, RefinementRow
from tapir.data.run.store import RunStore
from tapir.runs import session
from tapir.runs.build import build_roles
from tapir.runs.plan import plan


def test_the_classes_of_the_documentation_run_and_their_calls_are_checked_and_accounted_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "extending.md").read_text("utf-8"), re.DOTALL)
    assert len(blocks) == 4
    (tmp_path / "my_roles.py").write_text("\n\n".join(blocks), encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_roles", raising=False)
    with serving(Behaviour(latency=0.0, models=("m",)), brain=lambda *_: "Yes, right.") as server:
        recipe = recipe_of(server.url)
        planned = plan(recipe, measure=False, reach=True)
        assert (planned.obstacles, planned.total.calls.most) == ((), 0)
        assert "the calls of classes of your own (teacher, judge) are not counted" in planned.assumed
        built, others = build_roles(recipe), fakes.roles(tmp_path / "roles")
        roles = replace(built, student=others.student, tagger=others.tagger, trainer=others.trainer, base=others.base)
        session.run(recipe, tmp_path / "run", roles=replace(roles, corpus=others.corpus))
        spent = json.loads((tmp_path / "run" / "spending.json").read_text())
        assert {row["stage"] for row in spent} == {"prefer"}
        assert sum(row["calls"] for row in spent) == server.stats().requests > 0
        server.set(models=("another",))
        assert "no model 'm'" in plan(recipe, measure=False, reach=True).obstacles[0]
    store = RunStore(tmp_path / "run")
    refined = store.read("round-1/refinements", RefinementRow)
    assert refined
    assert all(row.text is not None and row.text.isupper() for row in refined)
    assert {row.estimator for row in store.each("round-0/estimates", EstimateRow)} == {"word-count"}
    assert {row.benchmark for row in store.each("round-1/evaluation", EvaluationRow)} == {"capitals"}


def recipe_of(url: str) -> Recipe:
    custom = {"kind": "custom"}
    return parse(
        {
            "chunk": 8,
            "teacher": custom | {"class": "my_roles:ShoutingTeacher", "options": {"suffix": "!"}},
            "judge": custom | {"class": "my_roles:YesNoJudge", "endpoints": ["gpt"]},
            "tagger": {"kind": "none", "label": "chain_sum"},
            "curriculum": {
                "target": {"shares": "pool"},
                "rounds": 1,
                "size": 8,
                "refine_keep": "judge",
                "difficulty": custom | {"class": "my_roles:WordCount"},
                "threshold": {"rule": "quantile", "value": 0.5},
            },
            "evaluation": custom | {"class": "my_roles:Capitals"},
            "endpoints": {"gpt": {"base_url": url, "model": "m", "price_input": 1.0, "price_output": 0.0}},
        }
    )
