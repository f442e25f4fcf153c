"""Self-contained HTML report of a run."""

from __future__ import annotations

import json
import math
import os
from base64 import b64encode
from dataclasses import asdict
from functools import cache
from hashlib import sha256
from importlib import resources
from importlib.util import find_spec
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from tapir.config.recipe import Recipe
from tapir.config.toml import as_toml, load, shipped
from tapir.data.files import write_text
from tapir.data.run.reader import RunReader
from tapir.data.run.store import RunStore
from tapir.domain.difficulty import Scale
from tapir.domain.progress import duration
from tapir.domain.task import TaskDistribution
from tapir.models.estimators import MFD
from tapir.report.judging import answering, models, success_meaning
from tapir.report.sample import FATES, SampledInstruction, choose_sample
from tapir.report.summary import Summary, costs, tasks_of
from tapir.report.training import format_loss, recorded_fields

_LARGE = 100  # money, from which on cents are enough


def write_report(store: RunStore, summary: Summary) -> Path | None:
    """Write report.html into the run directory; None where the chart library (extra `report`) is not installed."""
    if find_spec("altair") is None or find_spec("vl_convert") is None:
        return None
    path = store.folder / "report.html"
    write_text(path, render(store, summary))
    return path


def render(store: RunStore, summary: Summary) -> str:
    """Return the page as text. It loads nothing: styles, scripts, charts and data are inside."""
    from tapir.report import charts

    run, scale, most = RunReader(store), summary.scale, summary.cut.most
    specs, chosen = charts.charts(summary), choose_sample(run)
    scripts = [_vega(), _file("page.js")]
    content = {
        "summary": summary,
        "charts": specs,
        "success": success_meaning(summary.recipe),
        "answering": answering(summary.recipe.student),
        "mfd": scale == MFD,
        "judge": ", ".join(models(summary.recipe, "judge")),
        "costs": costs(summary),
        "recorded": recorded_fields(summary.trainings),
        "limit": charts.threshold(scale, most) if scale and math.isfinite(most) else "",
        "beyond": charts.beyond(summary),
        "distances": _distances(summary),
        "drops": _drops(summary),
        "fates": FATES,
        "chosen": chosen,
        "settings": recipe_text(summary.recipe),
        "folder": os.fsencode(store.folder.name).decode(errors="replace"),  # not every name is UTF-8
        "data": _json({"charts": specs, "sample": [_item(each, scale) for each in chosen.items]}),
        "style": _file("style.css"),
        "scripts": scripts,
        "policy": " ".join(f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'" for text in scripts),
    }
    return _environment().get_template("template.html.j2").render(content).lstrip()


def _environment() -> Environment:
    from tapir.report.charts import student

    templates = PackageLoader("tapir", "report")
    environment = Environment(
        loader=templates, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "percent": _percent,
        "number": "{:,}".format,
        "student": student,
        "points": _points,
        "money": format_money,
        "figure": lambda text: text.replace("->", "→").replace(" %", "\u202f%"),
        "duration": duration,
        "many": format_count,
        "loss": format_loss,
        "correlation": lambda value: f"{value:.2f}".replace("-", "\N{MINUS SIGN}"),
    }
    environment.globals["tasks_of"] = tasks_of
    environment.globals["most"] = lambda found, task: max(each.tasks[task].n for each in found if task in each.tasks)
    return environment


def _file(name: str) -> str:
    return resources.files("tapir.report").joinpath(name).read_text(encoding="utf-8")


@cache
def _vega() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script, in the version the charts are written for."""
    import altair as alt
    import vl_convert

    version = alt.SCHEMA_VERSION.removeprefix("v").rsplit(".", 1)[0]
    return str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=version))


def _json(content: object) -> str:
    """Write JSON that no text inside can end or turn into markup."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _item(item: SampledInstruction, scale: Scale | None) -> dict[str, object]:
    """Return an instruction of the sample with its difficulty as text."""
    text = f"{scale.name} {scale.format(item.gap)}" if scale and item.gap is not None else ""
    return asdict(item) | {"difficulty": text}


def _distances(summary: Summary) -> dict[str, float]:
    """Return the total variation distance to P(t) of the corpus and of every round."""
    if not summary.rounds:
        return {}
    corpus = TaskDistribution(summary.rounds[-1].target).distance(summary.corpus_shares)
    moves = any(each.target != summary.rounds[-1].target for each in summary.rounds)
    return {"corpus, to the last round's target" if moves else "corpus": corpus} | {
        f"round {each.number}": each.distance for each in summary.rounds
    }


def _drops(summary: Summary) -> list[tuple[str, str, int, float]]:
    """Return place, reason and count of what was dropped, and the count relative to the largest."""
    corpus = summary.corpus
    counts = [("corpus", reason, count) for reason, count in sorted(corpus.dropped.items())]
    if lost := sum(corpus.unanswered.values()):
        counts.append(("corpus", "the teacher gave no answer", lost))
    for each in summary.rounds:
        place = f"expansions, round {each.number}"
        counts += [(place, reason, count) for reason, count in sorted(each.dropped.items())]
    most = max((count for *_, count in counts), default=1)
    return [(place, reason, count, count / most) for place, reason, count in counts]


def recipe_text(recipe: Recipe) -> tuple[str, str]:
    """Return the resolved recipe as TOML with the command that runs it."""
    undated = recipe.model_copy(update={"student": recipe.student.model_copy(update={"date": ""})})
    same = next((name for name in shipped() if load(name) == undated), None)
    return as_toml(recipe), f"tapir run {same or 'recipe.toml'}"


def _percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f}\u202f%"


def _points(points: float) -> str:
    text = f"{points:+.1f}".replace("-", "\N{MINUS SIGN}")
    return "±0.0" if text[1:] == "0.0" else text


def format_money(amount: float, total: float = 0.0) -> str:
    """Format money: cents if it is large, two significant digits if it is small.

    `total` is the sum of its column, in which all numbers have the same digits; 0 for a number outside a table.
    """
    if total:
        digits = 2 if total >= _LARGE else max(4, 2 - math.floor(math.log10(total)))
    else:
        digits = 2 if amount >= 1 or not amount else 1 - math.floor(math.log10(amount))
    return f"{amount:,.{digits}f}"


def format_count(number: int) -> str:
    """Format a number of parameters: 1.08 M, 494 M, 7.62 B, 1.03 T."""
    rounded = float(f"{number:.3g}")  # which may reach the next unit
    for unit, size in (("T", 10**12), ("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if rounded >= size:
            return f"{rounded / size:.3g}\u202f{unit}"
    return str(number)
