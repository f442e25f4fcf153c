"""Write report.html: one self-contained page that shows what a run did and how it is known."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from tapir.domain.round import EvalResult, Evaluation
from tapir.domain.task import TaskDistribution
from tapir.errors import RecipeError
from tapir.recipe_file import as_toml, load, parse, shipped
from tapir.report.charts import charts, student
from tapir.report.sample import FATES, select
from tapir.report.summary import Summary
from tapir.store.files import write_text
from tapir.store.run import RunStore

if TYPE_CHECKING:
    from jinja2 import Environment

_HOUR, _MINUTE = 3600, 60


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
    specs, chosen = charts(summary), select(store)
    scripts = [_vega(), _file("page.js")]
    content = {
        "summary": summary,
        "headline": _headline(summary),
        "charts": specs,
        "facts": _facts(summary),
        "versions": summary.manifest["packages"],
        "same_judge": _same_judge(summary.recipe),
        "distances": _distances(summary),
        "drops": _drops(summary),
        "fates": FATES,
        "chosen": chosen,
        "settings": _settings(summary.recipe),
        "folder": store.folder.name,
        "data": _json({"charts": specs, "sample": [asdict(one) for one in chosen.items]}),
        "style": _file("style.css"),
        "scripts": scripts,
        "policy": " ".join(f"'sha256-{_digest(script)}'" for script in scripts),
    }
    return _environment().from_string(_file("template.html.j2")).render(content).lstrip()


def _environment() -> Environment:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"percent": _percent, "number": "{:,}".format, "student": student, "points": _points}
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
        "corpus": f"{summary.corpus:,} instructions",
        "examples a round": f"{plan['size']:,}",
        "working time": _duration(summary.seconds),
        "seed": str(summary.recipe["seed"]),
        "versions": f"tapir {summary.manifest['tapir']}, Python {summary.manifest['python']}",
    }
    if summary.tagger:
        facts["tagger agrees with teacher"] = f"{_percent(summary.tagger['accuracy'])} (n = {summary.tagger['n']:,})"
    return facts


def _same_judge(recipe: Mapping[str, Mapping[str, object]]) -> str:
    """What teacher and judge both are (METHOD 4.12), empty where they differ in kind or in model."""
    teacher, judge = ([str(recipe[role].get(key, "")) for key in ("kind", "model")] for role in ("teacher", "judge"))
    return ", ".join(filter(None, teacher)) if teacher == judge else ""


def _distances(summary: Summary) -> dict[str, float]:
    """Total variation distance to P(t) of the corpus and of every round."""
    if not summary.rounds:
        return {}
    corpus = TaskDistribution(summary.rounds[-1].target).distance(summary.corpus_shares)
    return {"corpus": corpus} | {f"round {one.number}": one.distance for one in summary.rounds}


def _drops(summary: Summary) -> Sequence[Drop]:
    found = [("corpus", reason, count) for reason, count in sorted(summary.corpus_drops.items())]
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


def _percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f}\u202f%"


def _points(points: float) -> str:
    text = f"{abs(points):.1f}"
    sign = "±" if text == "0.0" else "+" if points > 0 else "\N{MINUS SIGN}"
    return sign + text


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), _HOUR)
    minutes, seconds = divmod(rest, _MINUTE)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"
