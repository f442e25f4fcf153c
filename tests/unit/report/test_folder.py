"""An export is whole or not there, and never in the place of something else."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from tapir.domain.errors import StoreError, StoreFull
from tapir.report.export.folder import MARKER, Mark, draft_folder, read_mark
from tapir.report.export.lineage import without_paths

MARK = Mark("model", "run-1", (2,))


def export(out: Path, text: str = "weights", mark: Mark = MARK) -> None:
    with draft_folder(out, mark) as draft:
        (draft / "data").mkdir(parents=True)
        (draft / "data" / "file").write_text(text)


def names(folder: Path) -> list[str]:
    return [one.name for one in folder.iterdir()]


def test_the_same_export_again_takes_its_place(tmp_path: Path) -> None:
    export(tmp_path / "out", "old")
    export(tmp_path / "out", "new", Mark("model", "run-1", (3,)))
    assert (tmp_path / "out" / "data" / "file").read_text() == "new"
    assert read_mark(tmp_path / "out").rounds == (3,)
    assert names(tmp_path) == ["out"]


def test_a_mount_point_is_refused_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    out.mkdir()
    monkeypatch.setattr(Path, "is_mount", lambda path: path == out)
    with pytest.raises(StoreError, match="is a mount point") as caught, draft_folder(out, MARK):
        pytest.fail("the export was begun")
    assert f"--out {out}/export" in caught.value.remedy


@pytest.mark.parametrize(
    ("umask", "file", "folder"), [(0o022, 0o644, 0o755), (0o077, 0o600, 0o700), (0o002, 0o664, 0o775)]
)
def test_an_export_has_the_permissions_of_the_users_umask(umask: int, file: int, folder: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        with draft_folder(tmp_path / "out", MARK) as draft:
            (draft / "data").mkdir(parents=True, mode=0o700)
            (draft / "data" / "weights").touch(mode=0o600)  # as a library writes them through a temporary file
    finally:
        os.umask(before)
    made = [tmp_path / "out", *(tmp_path / "out").rglob("*")]
    assert [stat.S_IMODE(path.stat().st_mode) for path in made] == [folder if path.is_dir() else file for path in made]
    assert {path.name for path in made} == {"out", "data", "weights", MARKER}


def test_a_failure_in_the_middle_leaves_the_old_export_as_it_was(tmp_path: Path) -> None:
    def interrupted() -> None:
        with draft_folder(tmp_path / "out", MARK) as draft:
            draft.mkdir()
            (draft / "half").write_text("half")
            raise KeyboardInterrupt

    export(tmp_path / "out", "old")
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (tmp_path / "out" / "data" / "file").read_text() == "old"
    assert names(tmp_path) == ["out"]


def test_what_a_killed_export_left_is_in_nobodys_way(tmp_path: Path) -> None:
    (tmp_path / ".out.draft").mkdir()
    (tmp_path / ".out.draft" / "half").write_text("half")
    export(tmp_path / "out")
    assert not (tmp_path / "out" / "half").exists()


def test_a_full_disk_is_one_error_with_what_to_do(tmp_path: Path) -> None:
    def full() -> None:
        with draft_folder(tmp_path / "out", MARK) as draft:
            draft.mkdir()
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StoreFull) as failure:
        full()
    assert failure.value.remedy == "Free some space and export again."
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("mark", "why"),
    [
        (Mark("dataset", "run-1", (2,)), "of a model, not of a dataset"),
        (Mark("model", "run-2", (2,)), "of another run"),
    ],
)
def test_another_export_is_not_overwritten(tmp_path: Path, mark: Mark, why: str) -> None:
    export(tmp_path / "out", "first")
    with pytest.raises(StoreError, match=why):
        export(tmp_path / "out", "second", mark)
    assert (tmp_path / "out" / "data" / "file").read_text() == "first"


def test_a_folder_or_file_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    with pytest.raises(StoreError, match="no export of tapir") as failure:
        export(tmp_path / "out")
    assert "--out" in failure.value.remedy
    for below, why in (("", "no export of tapir"), ("out", "another folder")):
        with pytest.raises(StoreError) as failure:
            export(tmp_path / "out" / "thesis.tex" / below)
        assert why in f"{failure.value} {failure.value.remedy}"
    assert (tmp_path / "out" / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize("name", ["data/file", "LICENSE"])
def test_what_somebody_changed_or_added_is_not_overwritten(tmp_path: Path, name: str) -> None:
    export(tmp_path / "out")
    (tmp_path / "out" / name).write_text("by hand")
    with pytest.raises(StoreError, match=f"added or changed since it was exported: {name}"):
        export(tmp_path / "out")
    assert (tmp_path / "out" / name).read_text() == "by hand"


def test_a_damaged_mark_is_an_error(tmp_path: Path) -> None:
    (tmp_path / MARKER).write_text("{}")
    with pytest.raises(StoreError, match="damaged"):
        read_mark(tmp_path)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("/home/me/corpus.jsonl", "corpus.jsonl"),
        ("/home/me/my models/qwen/", "qwen"),
        ("~/models/qwen", "qwen"),
        ("C:\\models\\qwen", "qwen"),
        ("python /opt/t/train.py --data={data} --base=/models/a", "python train.py --data={data} --base=a"),
        ("--config=/etc/x/ds.json", "--config=ds.json"),
        ("Qwen/Qwen2.5-0.5B-Instruct", "Qwen/Qwen2.5-0.5B-Instruct"),
        ("data/corpus.jsonl", "data/corpus.jsonl"),
        ("curl http://gpu-07.lab.internal:9000/lock; python x.py", "curl address python x.py"),
        ("see 'file:///home/me/secret.json'", "see 'address'"),
        ("train @/home/me/a/full.yaml >/home/me/log.txt", "train @full.yaml >log.txt"),
        ("cc -I/home/me/include/x;/opt/me/run", "cc -Ix;run"),
        ("{/home/me/x} `/home/me/y`", "{x} `y`"),
        ("//srv/me/x", "x"),
        ("copy \\\\srv\\me\\x.json here", "copy x.json here"),
        ("cd '/home/me/My Projects/acme merger/tuning'", "cd 'tuning'"),
        ("read C:\\Program Files\\me\\x.json", "read x.json"),
        ("../me/x", "../me/x"),
        ("grade it 4 /5 and/or say why", "grade it 4 /5 and/or say why"),
        ("{% if a %}</think>\n\n{% endif %}", "{% if a %}</think>\n\n{% endif %}"),
    ],
)
def test_of_an_absolute_path_only_the_name_is_left(text: str, left: str) -> None:
    assert without_paths(text) == left
