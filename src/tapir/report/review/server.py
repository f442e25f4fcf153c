"""Web server of the review page: for this machine only, and only for those who know its address.

Whoever can open a page in the same browser can send requests here, so every request must name this machine (against
DNS rebinding) and the token in the address, and a rating must come from the page itself. Texts reach the page as JSON
and are put in as text; the page may load nothing but its own files.
"""

from __future__ import annotations

import asyncio
import hmac
import re
import secrets
import signal
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from typing import Any, Literal

from aiohttp import web
from aiohttp.typedefs import Handler
from pydantic import BaseModel, ConfigDict, ValidationError

from tapir.data.run.reviews import Review, ReviewFile, Seconds, Side, Stars
from tapir.domain.errors import StoreError, TapirError
from tapir.report.review.sample import ReviewPair, ReviewSample

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
    """A rating as the page sends it: the answers are a (left) and b (right)."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    id: str
    preference: Literal["a", "tie", "b"] | None
    difficulty: Stars | None
    task: str | None
    seconds: Seconds


@dataclass(frozen=True, slots=True)
class ReviewSession:
    """The sample that one rater sees, and the file of the ratings.

    At the end the page shows the commands that read the reviews (`after`) and that go on with this review (`again`).
    """

    run: str
    rater: str
    sample: ReviewSample
    tasks: tuple[str, ...]
    file: ReviewFile
    after: str
    again: str

    def rated(self) -> dict[str, Review]:
        """Return the rater's last review of each pair of the sample, by id."""
        latest = self.file.latest(self.rater)
        return {pair.id: latest[pair.id] for pair in self.sample.pairs if pair.id in latest}

    def state(self) -> dict[str, Any]:
        """Return everything the page shows; nothing in it tells whose answer is whose."""
        rated = self.rated()
        return {
            "run": self.run,
            "rater": self.rater,
            "tasks": list(self.tasks),
            "after": self.after,
            "again": self.again,
            "pairs": [_pair(pair, rated.get(pair.id)) for pair in self.sample.pairs],
        }

    def save(self, rating: Rating) -> None:
        """Save a rating; it is a LookupError if its pair or its task is not in this review."""
        pair = next((pair for pair in self.sample.pairs if pair.id == rating.id), None)
        if pair is None:
            raise LookupError(f"no pair {rating.id!r} in this review")
        if rating.task is not None and rating.task not in self.tasks:
            raise LookupError(f"no task {rating.task!r} in this run")
        sides: dict[str | None, Side] = {"a": pair.left, "b": "reference" if pair.left == "student" else "student"}
        self.file.append(
            Review(
                **rating.model_dump(include={"id", "difficulty", "task"}),
                rater=self.rater,
                preference="tie" if rating.preference == "tie" else sides.get(rating.preference),
                left=pair.left,
                seconds=round(rating.seconds, 1),
                time=datetime.now(UTC).isoformat(timespec="seconds"),
            )
        )


def _pair(pair: ReviewPair, review: Review | None) -> dict[str, Any]:
    left, right = pair.shown
    rated = None
    if review is not None:
        sides = {"tie": "tie", pair.left: "a", None: None}
        answers = review.model_dump(include={"difficulty", "task", "seconds"})
        rated = {"preference": sides.get(review.preference, "b")} | answers
    return {"id": pair.id, "instruction": pair.instruction, "a": left, "b": right, "rated": rated}


def application(session: ReviewSession, token: str) -> web.Application:
    """Return the application: the page at /TOKEN/, its files, its state, and the address for ratings."""

    async def send_file(request: web.Request) -> web.Response:
        name, kind = _FILES[request.match_info.get("name", "")]
        content = (resources.files("tapir.report.review") / name).read_bytes()
        return web.Response(body=content, content_type=kind, charset="utf-8")

    async def send_state(_: web.Request) -> web.Response:
        return web.json_response(session.state())

    async def save_rating(request: web.Request) -> web.Response:
        if request.content_type != "application/json":
            return _refusal(415, "a rating is application/json")
        try:
            session.save(Rating.model_validate_json(await request.read()))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            return _refusal(400, f"no rating: {'.'.join(map(str, first['loc']))} {first['msg']}")
        except LookupError as error:
            return _refusal(404, str(error.args[0]))
        return web.json_response({"saved": True})

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        reply = _refusal_of(request, token) or await _handle(request, handler)
        reply.headers.update(_HEADERS)
        return reply

    app = web.Application(middlewares=[guard], client_max_size=_LARGEST)
    app.router.add_get("/{token}/", send_file)
    app.router.add_get("/{token}/{name:page\\.js|page\\.css|icon\\.svg}", send_file)
    app.router.add_get("/{token}/state", send_state)
    app.router.add_post("/{token}/rate", save_rating)
    return app


def _refusal_of(request: web.Request, token: str) -> web.Response | None:
    """Return the refusal of a request that does not come from this page."""
    if not _NAMES.fullmatch(request.host):
        return _refusal(421, "this page answers to 127.0.0.1 and localhost only")
    given = request.path.split("/")[1]
    if not hmac.compare_digest(given.encode(errors="surrogateescape"), token.encode()):
        return _refusal(404, "nothing here; use the whole address that `tapir review` printed")
    ours = request.headers.get("Origin") == f"http://{request.host}"
    ours &= request.headers.get("Sec-Fetch-Site", "same-origin") in {"same-origin", "none"}
    if request.method not in {"GET", "HEAD"} and not ours:
        return _refusal(403, "ratings come from the page itself")
    return None


async def _handle(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as error:
        return _refusal(error.status, error.reason)
    except StoreError as error:
        return _refusal(507, f"not saved: {error} {error.remedy}")
    except TapirError as error:
        return _refusal(500, f"{error} {error.remedy}")


def _refusal(status: int, why: str) -> web.Response:
    return web.json_response({"error": why}, status=status)


async def serve(session: ReviewSession, port: int, ready: Callable[[str], None]) -> None:
    """Serve the page until Ctrl-C or SIGTERM; port 0 is any that is free.

    Once the page can be opened, `ready` is called with its address.
    """
    token = secrets.token_urlsafe(16)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    runner = web.AppRunner(application(session, token), access_log=None, shutdown_timeout=1.0)
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
