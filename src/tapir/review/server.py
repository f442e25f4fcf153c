"""The page where a person rates pairs: served to this machine only, and to nobody who does not know its address.

Whoever can open a page in the same browser can send requests here, so every request must name this machine (against
DNS rebinding) and the token in the address, and a rating must come from the page itself. Texts reach the page as JSON
and are put in as text; the page may load nothing but its own files.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import re
import secrets
import signal
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from typing import Any, Literal

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from pydantic import BaseModel, ConfigDict, ValidationError

from tapir.errors import StoreError, TapirError
from tapir.review.book import Review, ReviewBook, Seconds, Stars
from tapir.review.sample import ReviewPair, Sample, Side

HOST = "127.0.0.1"
_NAMES = re.compile(r"(127\.0\.0\.1|localhost)(:[0-9]{1,5})?", re.IGNORECASE)  # any port: it may be forwarded
_LARGEST = 64 * 1024  # bytes of a rating; one has about 150
_FILES = {
    "": ("page.html", "text/html"),
    "page.js": ("page.js", "text/javascript"),
    "page.css": ("page.css", "text/css"),
    "icon.svg": ("icon.svg", "image/svg+xml"),
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Rating(BaseModel):
    """What the page sends: the answers are a (left) and b (right) there, and it knows no more about them."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    id: str
    preference: Literal["a", "tie", "b"] | None
    difficulty: Stars | None
    task: str | None
    seconds: Seconds


@dataclass(frozen=True, slots=True)
class Desk:
    """What one rater is asked, and where the replies go.

    Attributes:
        run: how the page calls the run.
        tasks: labels the rater chooses from.
        after: the command that reads the reviews, shown at the end.
        again: the command that goes on with this review.
    """

    run: str
    rater: str
    sample: Sample
    tasks: tuple[str, ...]
    book: ReviewBook
    after: str
    again: str

    def rated(self) -> dict[str, Review]:
        """What the rater said last about each pair of the sample, by id."""
        latest = self.book.latest(self.rater)
        return {pair.id: latest[pair.id] for pair in self.sample.pairs if pair.id in latest}

    def state(self) -> dict[str, Any]:
        """Everything the page shows; nothing in it says whose answer is whose."""
        rated = self.rated()
        return {
            "run": self.run,
            "rater": self.rater,
            "tasks": list(self.tasks),
            "after": self.after,
            "again": self.again,
            "pairs": [_shown(pair, rated.get(pair.id)) for pair in self.sample.pairs],
        }

    def take(self, rating: Rating) -> None:
        """Keep a rating.

        Raises:
            LookupError: it is about a pair or a task that nobody asked about.
            StoreError: it could not be written.
        """
        pair = next((one for one in self.sample.pairs if one.id == rating.id), None)
        if pair is None:
            raise LookupError(f"no pair {rating.id!r} in this review")
        if rating.task is not None and rating.task not in self.tasks:
            raise LookupError(f"no task {rating.task!r} in this run")
        sides: dict[str | None, Side] = {"a": pair.left, "b": "reference" if pair.left == "student" else "student"}
        self.book.append(
            Review(
                id=pair.id,
                rater=self.rater,
                preference="tie" if rating.preference == "tie" else sides.get(rating.preference),
                difficulty=rating.difficulty,
                task=rating.task,
                left=pair.left,
                seconds=round(rating.seconds, 1),
                time=datetime.now(UTC).isoformat(timespec="seconds"),
            )
        )


def _shown(pair: ReviewPair, review: Review | None) -> dict[str, Any]:
    left, right = pair.shown
    said = None
    if review is not None:
        sides = {"tie": "tie", pair.left: "a", None: None}
        said = {
            "preference": sides.get(review.preference, "b"),
            "difficulty": review.difficulty,
            "task": review.task,
            "seconds": review.seconds,
        }
    return {"id": pair.id, "instruction": pair.instruction, "a": left, "b": right, "rated": said}


def application(desk: Desk, token: str) -> web.Application:
    """The page at /TOKEN/, its files, what it shows, and where it sends ratings."""

    async def send_file(request: web.Request) -> web.Response:
        name, kind = _FILES[request.match_info.get("name", "")]
        content = (resources.files("tapir.review") / name).read_bytes()
        return web.Response(body=content, content_type=kind, charset="utf-8")

    async def send_state(_: web.Request) -> web.Response:
        return _json(desk.state())

    async def take_rating(request: web.Request) -> web.Response:
        if request.content_type != "application/json":
            return _refusal(415, "a rating is application/json")
        try:
            desk.take(Rating.model_validate_json(await request.read()))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            return _refusal(400, f"no rating: {'.'.join(map(str, first['loc']))} {first['msg']}")
        except LookupError as error:
            return _refusal(404, str(error.args[0]))
        return _json({"saved": True})

    made = web.Application(middlewares=[_guard(token)], client_max_size=_LARGEST)
    made.router.add_get("/{token}/", send_file)
    made.router.add_get("/{token}/{name:page\\.js|page\\.css|icon\\.svg}", send_file)
    made.router.add_get("/{token}/state", send_state)
    made.router.add_post("/{token}/rate", take_rating)
    return made


def _guard(token: str) -> Middleware:
    """Refuse every request that does not come from this machine's own page; put our headers on every reply."""

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        reply = _stranger(request, token) or await _handled(request, handler)
        reply.headers.update(_HEADERS)
        return reply

    return guard


def _stranger(request: web.Request, token: str) -> web.Response | None:
    """The refusal for a request that is none of ours."""
    if not _NAMES.fullmatch(request.host):
        return _refusal(421, "this page answers to 127.0.0.1 and localhost only")
    said = request.path.split("/")[1]
    if not hmac.compare_digest(said.encode(errors="surrogateescape"), token.encode()):
        return _refusal(404, "nothing here; use the whole address that `tapir review` printed")
    ours = request.headers.get("Origin") == f"http://{request.host}"
    if request.headers.get("Sec-Fetch-Site", "same-origin") not in {"same-origin", "none"}:
        ours = False
    if request.method not in {"GET", "HEAD"} and not ours:
        return _refusal(403, "ratings come from the page itself")
    return None


async def _handled(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as error:
        return _refusal(error.status, error.reason)
    except StoreError as error:
        return _refusal(507, f"not saved: {error} {error.remedy}")
    except TapirError as error:
        return _refusal(500, f"{error} {error.remedy}")


def _json(content: object) -> web.Response:
    return web.Response(text=json.dumps(content), content_type="application/json")


def _refusal(status: int, why: str) -> web.Response:
    return web.Response(status=status, text=json.dumps({"error": why}), content_type="application/json")


async def serve(desk: Desk, port: int, ready: Callable[[str], None]) -> None:
    """Serve the page until Ctrl-C or SIGTERM.

    Args:
        desk: what is asked.
        port: to listen on; 0 for any that is free.
        ready: told the page's address once it can be opened.

    Raises:
        TapirError: the port cannot be had.
    """
    token = secrets.token_urlsafe(16)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    runner = web.AppRunner(application(desk, token), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, HOST, port)
        try:
            await site.start()
        except OSError as error:
            raise TapirError(
                f"cannot listen on {HOST}:{port}: {error.strerror or error}",
                remedy="Leave --port out (any free port is taken), or choose another one.",
            ) from error
        ready(f"http://{HOST}:{runner.addresses[0][1]}/{token}/")
        await stop.wait()
    finally:
        await runner.cleanup()
