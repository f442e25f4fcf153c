"""What a plan expects of models that think, against what their server bills."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support.paths import SHARED
from support.recipes import endpoint
from support.server import Behaviour, Server, serving
from tapir.config.recipe import Recipe
from tapir.runs import session
from tapir.runs.plan import plan
from unit.runs.test_planning import recipe_of

CORPUS = SHARED / "seed" / "alpaca_data.json.gz"
THOUGHT = 700  # words of the fake model, of two tokens each
PRICES = {"price_input": 0.4, "price_output": 1.6, "json_schema": True}


@dataclass(frozen=True)
class Servers:
    """A teacher, and a judge and tagger that thinks before every reply."""

    plain: Server
    thinks: Server

    def recipe(self, rows: int, **judge: Any) -> Recipe:
        return recipe_of(
            CORPUS,
            corpus={"kind": "file", "path": str(CORPUS), "limit": rows},
            tagger={"kind": "llm", "endpoints": ["judge"]},
            judge={"endpoints": ["judge"]},
            evaluation={"kind": "judged", "held_out": rows // 10},
            student={"max_new_tokens": 16},
            curriculum={"size": rows // 5, "rounds": 1},
            training={"epochs": 0.2, "batch_size": 8, "max_length": 4096},
            endpoints={
                "gpt": endpoint(base_url=self.plain.url, model="fake", **PRICES),
                "judge": endpoint(base_url=self.thinks.url, model="thinks", **PRICES, **judge),
            },
        )

    def check(self, recipe: Recipe, folder: Path, earlier: Path | None = None) -> None:
        """Run a recipe: the estimate is within a tenth of what is billed, and that is no more than the most."""
        expected = plan(recipe, measure=False, folder=earlier).total
        for server in (self.plain, self.thinks):
            server.reset()
        session.run(recipe, folder)
        stats = self.plain.stats(), self.thinks.stats()
        read, written = sum(each.prompt_tokens for each in stats), sum(each.completion_tokens for each in stats)
        money = (0.4 * read + 1.6 * written) / 1e6
        assert expected.calls.expected == pytest.approx(sum(each.by_status["200"] for each in stats), rel=0.1)
        assert expected.read.expected == pytest.approx(read, rel=0.1)
        assert expected.written.expected == pytest.approx(written, rel=0.1)
        assert expected.money.expected == pytest.approx(money, rel=0.1)
        assert expected.read.most > read
        assert expected.written.most > written


@pytest.mark.slow
def test_the_estimate_holds_for_models_that_think(tmp_path: Path) -> None:
    if not CORPUS.exists():
        pytest.skip("the shared data is not here: shared/data/seed/alpaca_data.json.gz")
    thinking = Behaviour(latency=0.0, reasoning="reasoning_content", thoughts=THOUGHT)
    with serving(Behaviour(latency=0.0)) as plain, serving(thinking) as thinks:
        servers = Servers(plain, thinks)
        servers.check(servers.recipe(100, thinking_tokens=4 * THOUGHT), tmp_path / "first")
        session.run(servers.recipe(50), tmp_path / "small")
        servers.check(servers.recipe(150), tmp_path / "whole", tmp_path / "small")
        servers.check(servers.recipe(100, thinking_tokens=2048), tmp_path / "roomy", tmp_path / "small")
