"""Pushing speaks to a hub only when it is told to; here a small hub on this machine listens."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from support.runs import build_run
from tapir.domain.errors import StoreError, TapirError
from tapir.report.export.dataset import export_dataset
from tapir.report.export.folder import MARKER, push

TOKEN = "hf_for_this_test"  # noqa: S105 (of a hub on this machine)


@dataclass
class Hub:
    """What the hub's library needs of a hub to make a repository and to commit files to it."""

    address: str = ""
    exists: bool = False
    refuses: int = 0
    leftovers: tuple[str, ...] = ()
    asked: list[tuple[str, str]] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    created: dict[str, object] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    deleted: list[str] = field(default_factory=list)

    def answer(self, path: str, body: bytes) -> tuple[int, object]:
        if self.refuses:
            return self.refuses, {"error": "no"}
        known = {
            "create": self._create,
            "validate-yaml": lambda _: {"errors": [], "warnings": []},
            "tree": self._tree,
            "preupload": self._preupload,
            "commit": self._commits,
        }
        verb = next((part for part in path.split("/") if part in known), None)
        if verb is None:
            return 404, {"error": path}
        return 409 if verb == "create" and self.exists else 200, known[verb](body)

    def _create(self, body: bytes) -> object:
        self.created = json.loads(body)
        kind = "datasets/" if self.created.get("type") == "dataset" else ""
        return {"url": f"{self.address}/{kind}owner/name"}

    def _tree(self, _: bytes) -> object:
        return [{"type": "file", "path": name, "size": 1, "oid": "0" * 40} for name in self.leftovers]

    def _preupload(self, body: bytes) -> object:
        names = [one["path"] for one in json.loads(body)["files"]]
        return {"files": [{"path": one, "uploadMode": "regular", "shouldIgnore": False} for one in names]}

    def _commits(self, body: bytes) -> object:
        for line in body.splitlines():
            self._commit(json.loads(line))
        return {"commitUrl": f"{self.address}/owner/name/commit/{'0' * 40}", "commitOid": "0" * 40, "hookOutput": ""}

    def _commit(self, line: dict[str, object]) -> None:
        value = line["value"]
        assert isinstance(value, dict)
        if line["key"] == "file":
            self.files[value["path"]] = base64.b64decode(value["content"])
        if line["key"] == "deletedFile":
            self.deleted.append(value["path"])


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    from huggingface_hub import constants
    from huggingface_hub.utils.tqdm import disable_progress_bars

    one = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            one.asked.append((self.command, self.path.partition("?")[0]))
            one.tokens.add(self.headers.get("Authorization", ""))
            status, content = one.answer(self.path.partition("?")[0], body)
            sent = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        do_POST = do_GET  # noqa: N815 (the server looks for this name)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    one.address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", one.address)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    disable_progress_bars()
    yield one
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exports")
    out = folder / "data"
    export_dataset(build_run(folder / "run", done=1), out)
    return out


def as_model(folder: Path, out: Path) -> Path:
    """A tiny folder that says it is a model."""
    out.mkdir()
    mark = json.loads((folder / MARKER).read_text())
    (out / MARKER).write_text(json.dumps(mark | {"kind": "model"}))
    (out / "README.md").write_text("---\nlicense: apache-2.0\n---\n# x\n")
    (out / "model.safetensors").write_bytes(b"weights")
    return out


def test_a_data_set_goes_to_a_private_data_set_repository_as_it_is(hub: Hub, exported: Path) -> None:
    *notes, url = push(exported, "owner/name")
    assert url == f"{hub.address}/datasets/owner/name"
    assert hub.created == {"name": "name", "organization": "owner", "type": "dataset", "visibility": "private"}
    assert hub.files == {
        path.relative_to(exported).as_posix(): path.read_bytes() for path in exported.rglob("*") if path.is_file()
    }
    assert hub.tokens == {f"Bearer {TOKEN}"}
    assert any("names no licence" in note for note in notes)


def test_a_model_goes_to_a_model_repository_and_may_be_public(hub: Hub, exported: Path, tmp_path: Path) -> None:
    notes = push(as_model(exported, tmp_path / "model"), "owner/name", private=False)
    assert hub.created["type"] == "model"
    assert hub.created["visibility"] == "public"
    assert hub.files["model.safetensors"] == b"weights"
    assert len(notes) == 1  # the address


def test_a_repository_that_is_there_is_used_and_loses_only_the_tables_of_an_earlier_push(
    hub: Hub, exported: Path
) -> None:
    hub.exists = True
    notes = push(exported, "owner/name")
    assert "README.md" in hub.files
    assert any("was there already" in note for note in notes)
    hub.exists, hub.leftovers = True, ("data/round-9.parquet", "LICENSE", "README.md")
    push(exported, "owner/name")
    assert hub.deleted == ["data/round-9.parquet"]


def test_without_a_token_nothing_is_sent(hub: Hub, exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(TapirError, match="no token") as failure:
        push(exported, "owner/name")
    assert "HF_TOKEN" in failure.value.remedy
    assert hub.asked == []


def test_what_is_no_export_or_refused_by_the_librarys_own_checks_is_said_before_anything_is_sent(
    hub: Hub, tmp_path: Path, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(StoreError, match="is no export"):
        push(tmp_path, "owner/name")
    with pytest.raises(TapirError, match="no name of a repository"):
        push(exported, "a/b/c")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(TapirError, match="HF_HUB_OFFLINE"):
        push(exported, "owner/name")
    assert hub.asked == []


@pytest.mark.parametrize(
    ("status", "why"),
    [(status, "does not let this token write") for status in (401, 403)] + [(400, r"refused owner/name \(400\): no")],
)
def test_what_the_hub_refuses_is_said_and_the_token_never_shown(
    hub: Hub, exported: Path, status: int, why: str
) -> None:
    hub.refuses = status
    with pytest.raises(TapirError, match=why) as failure:
        push(exported, "owner/name")
    assert TOKEN not in f"{failure.value} {failure.value.remedy}"


def test_a_hub_that_cannot_be_reached_is_one_error(hub: Hub, exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(TapirError, match=r"http://127\.0\.0\.1:9 cannot be reached"):
        push(exported, "owner/name")
    assert hub.asked == []
