"""Write report.html: one self-contained page that shows what a run did and how it is known."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tapir.domain.round import EvalResult, Evaluation
from tapir.domain.task import TaskDistribution
from tapir.errors import RecipeError
from tapir.recipe_file import as_toml, load, parse, shipped
from tapir.report.charts import charts, student, threshold
from tapir.report.costs import Costs, costs
from tapir.report.histogram import histogram
from tapir.report.judging import models
from tapir.report.sample import FATES, Sample, select
from tapir.report.scale import Scale
from tapir.report.summary import Summary, tasks_of
from tapir.report.training import recorded, written
from tapir.store.files import write_text
from tapir.store.run import RunStore

if TYPE_CHECKING:
    from jinja2 import Environment

_HOUR, _MINUTE = 3600, 60
_LARGE = 100  # money, from which on nobody asks for more than cents


@dataclass(frozen=True, slots=True)
class Headline:
    """Success of S_0 and of the last student on the first benchmark."""

    benchmark: str
    tasks: int
    first: EvalResult
    last: EvalResult
    number: int

    @property
    def points(self) -> float:
        """Change in percentage points."""
        return 100 * (self.last.value - self.first.value)


@dataclass(frozen=True, slots=True)
class Drop:
    """Instructions set aside for one reason. `share` is relative to the most frequent reason."""

    place: str
    reason: str
    count: int
    share: float


@dataclass(frozen=True, slots=True)
class Settings:
    """The resolved recipe and the command that runs it again, empty where this version cannot."""

    text: str
    command: str


def write_report(store: RunStore, summary: Summary) -> Path | None:
    """Write report.html into the run directory.

    Returns:
        Its path, or None where the chart library (extra `report`) is not installed.
    """
    if find_spec("altair") is None or find_spec("vl_convert") is None:
        return None
    path = store.folder / "report.html"
    write_text(path, render(store, summary))
    return path


def render(store: RunStore, summary: Summary) -> str:
    """The page as text. It loads nothing: styles, scripts, charts and data are inside."""
    specs, chosen, paid = charts(summary), select(store), costs(summary)
    scripts = [_vega(), _file("page.js")]
    content = {
        "summary": summary,
        "intake": summary.intake,
        "headline": _headline(summary),
        "charts": specs,
        "facts": _facts(summary) | _spent(paid),
        "versions": summary.manifest["packages"],
        "judge": ", ".join(models(summary.recipe, "judge")),
        "raised": [one for one in summary.alarms if one.raised],
        "costs": paid,
        "told": summary.recipe["training"].get("kind") == "command",
        "recorded": recorded(summary.trainings),
        "competence": _follows_competence(summary.recipe),
        "limit": _limit(summary),
        "beyond": _beyond(summary),
        "distances": _distances(summary),
        "drops": _drops(summary),
        "fates": FATES,
        "chosen": chosen,
        "settings": _settings(summary.recipe),
        "folder": store.folder.name,
        "data": _json({"charts": specs, "sample": list(_shown(chosen.items, summary.scale))}),
        "style": _file("style.css"),
        "scripts": scripts,
        "policy": " ".join(f"'sha256-{_digest(script)}'" for script in scripts),
    }
    return _environment().get_template("template.html.j2").render(content).lstrip()


def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("tapir", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": _percent,
        "number": "{:,}".format,
        "student": student,
        "points": _points,
        "money": _money,
        "figure": _figure,
        "duration": _duration,
        "many": _many,
        "loss": written,
        "correlation": _correlation,
    }
    environment.globals |= {"tasks_of": tasks_of, "most": _most}
    return environment


def _file(name: str) -> str:
    return resources.files("tapir.report").joinpath(name).read_text(encoding="utf-8")


def _vega() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script, in the version the charts are written for."""
    import altair as alt
    import vl_convert

    version = alt.SCHEMA_VERSION.removeprefix("v").rsplit(".", 1)[0]
    return str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=version))


def _digest(script: str) -> str:
    """What the page's security policy knows a script by; any other script is refused by the browser."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _json(content: object) -> str:
    """JSON that no text inside can end or turn into markup."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _shown(items: Iterable[Sample], scale: Scale | None) -> Iterator[dict[str, object]]:
    """The sample with its difficulty as a person reads it."""
    for one in items:
        text = f"{scale.name} {scale.written(one.gap)}" if scale and one.gap is not None else ""
        yield asdict(one) | {"difficulty": text}


def _follows_competence(recipe: Mapping[str, Any]) -> bool:
    """Whether α is planned anew in every round, so that what was planned has to be shown."""
    plan = recipe["curriculum"]
    return bool(plan["variant"] == "multi-round" and plan.get("schedule", {}).get("kind") == "competence")


def _limit(summary: Summary) -> str:
    """From where on an instruction is hopeless, as text."""
    return threshold(summary.scale, summary.cut.most) if summary.scale and math.isfinite(summary.cut.most) else ""


def _beyond(summary: Summary) -> str:
    """What the last bar of the histogram holds besides, where a few large figures would squeeze all others."""
    if not (summary.gaps and summary.scale):
        return ""
    found = histogram(summary.gaps, summary.scale, summary.cut)
    reach = summary.scale.mean(found.largest)
    return f" The last bar holds {found.beyond:,} that lie beyond its edge, up to {reach}." if found.beyond else ""


def _headline(summary: Summary) -> Headline | None:
    if not summary.evaluations:
        return None
    name = summary.benchmarks[0]
    found: list[Evaluation] = summary.benchmark(name)
    return Headline(name, len(found[0].tasks), found[0].overall, found[-1].overall, found[-1].round)


def _facts(summary: Summary) -> dict[str, str]:
    """The small facts under the title."""
    plan = summary.recipe["curriculum"]
    wanted = 1 if plan["variant"] == "single-round" else int(plan["rounds"])
    done = len(summary.rounds)
    facts = {
        "rounds": str(wanted) if done == wanted else f"{done} of {wanted}",
        "corpus": f"{summary.intake.size:,} instructions",
        "examples a round": f"{plan['size']:,}",
        "working time": _duration(summary.seconds),
        "seed": str(summary.recipe["seed"]),
        "versions": f"tapir {summary.manifest['tapir']}, Python {summary.manifest['python']}",
    }
    if summary.scale is None or summary.scale.kind != "mfd":
        facts["difficulty"] = summary.scale.name if summary.scale else "not measured"
    if summary.tagger:
        facts["tagger agrees with teacher"] = f"{_percent(summary.tagger.accuracy)} (n = {summary.tagger.n:,})"
    return facts


def _spent(paid: Costs | None) -> dict[str, str]:
    """The price of the run among the small facts, where it had one."""
    if paid is None:
        return {}
    calls = f"{paid.total.calls:,} calls"
    return {"spent": f"{_money(paid.total.cost)} on {calls}"} if paid.priced else {"calls to models": calls}


def _distances(summary: Summary) -> dict[str, float]:
    """Total variation distance to P(t) of the corpus and of every round."""
    if not summary.rounds:
        return {}
    corpus = TaskDistribution(summary.rounds[-1].target).distance(summary.corpus_shares)
    moves = any(one.target != summary.rounds[-1].target for one in summary.rounds)
    return {"corpus, to the last round's target" if moves else "corpus": corpus} | {
        f"round {one.number}": one.distance for one in summary.rounds
    }


def _drops(summary: Summary) -> Sequence[Drop]:
    intake = summary.intake
    found = [("corpus", reason, count) for reason, count in sorted(intake.dropped.items())]
    lost = sum(intake.unanswered.values())
    found += [("corpus", "the teacher gave no answer", lost)] if lost else []
    for one in summary.rounds:
        found += [(f"expansions, round {one.number}", reason, count) for reason, count in sorted(one.dropped.items())]
    most = max((count for *_, count in found), default=1)
    return [Drop(place, reason, count, count / most) for place, reason, count in found]


def _settings(recipe: Mapping[str, object]) -> Settings:
    """The resolved recipe as a file to run, or as JSON where this version cannot read it back."""
    try:
        read = parse(recipe)
    except RecipeError:
        return Settings(json.dumps(recipe, indent=2, ensure_ascii=False), "")
    same = next((name for name in shipped() if load(name) == read), None)
    return Settings(as_toml(read), f"tapir run {same or 'recipe.toml'}")


def _most(evaluations: Sequence[Evaluation], task: str) -> int:
    """Prompts of a task; a round where some could not be graded has fewer."""
    return max(one.tasks[task].n for one in evaluations if task in one.tasks)


def _percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f}\u202f%"


def _points(points: float) -> str:
    text = f"{abs(points):.1f}"
    sign = "±" if text == "0.0" else "+" if points > 0 else "\N{MINUS SIGN}"
    return sign + text


def _correlation(value: float) -> str:
    return f"{value:.2f}".replace("-", "\N{MINUS SIGN}")


def _money(amount: float, total: float = 0.0) -> str:
    """Cents for what is large, two significant digits for what is small; the currency is that of the prices.

    Args:
        amount: what to write.
        total: sum of the column it stands in, whose figures all have the same digits; 0 for a figure of its own.
    """
    if total:
        digits = 2 if total >= _LARGE else max(4, 2 - math.floor(math.log10(total)))
    else:
        digits = 2 if amount >= 1 or not amount else 1 - math.floor(math.log10(amount))
    return f"{amount:,.{digits}f}"


def _figure(text: str) -> str:
    """Figures that were made for a terminal, with the signs of a page."""
    return text.replace("->", "→").replace(" %", "\u202f%")


def _many(number: int) -> str:
    """Parameters as people name them: 1.08 M, 494 M, 7.62 B."""
    for unit, size in (("B", 1_000_000_000), ("M", 1_000_000), ("k", 1_000)):
        if number >= size:
            return f"{number / size:.3g}\u202f{unit}"
    return str(number)


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), _HOUR)
    minutes, seconds = divmod(rest, _MINUTE)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"
