"""Child processes: how they start, what they print, and that nothing of them is left, however they or we end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tapir.domain.errors import StoreError
from tapir.models.process import ChildProcess, describe_status

TREE = """
import os, pathlib, subprocess, sys, time
folder = pathlib.Path(sys.argv[1])
if sys.argv[2] == "0":
    pathlib.Path(folder, "ready").write_text(str(os.getpid()))
    time.sleep(600)
deeper = [sys.executable, "-c", sys.argv[3], str(folder), str(int(sys.argv[2]) - 1), sys.argv[3]]
subprocess.Popen(deeper, start_new_session=True)
if sys.argv[2] == "1":
    while not (folder / "ready").exists():
        time.sleep(0.01)
    sys.exit()  # its child is an orphan, in a session of its own
time.sleep(600)
"""
DEAF = """
import pathlib, os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path(sys.argv[1], "ready").write_text(str(os.getpid()))
time.sleep(600)
"""
LEAVING = """
import pathlib, subprocess, sys, time
subprocess.Popen([sys.executable, "-c", sys.argv[2], sys.argv[1]])
while not pathlib.Path(sys.argv[1], "ready").exists():
    time.sleep(0.01)
sys.exit(3)
"""
ORDERLY = """
import pathlib, os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(print("in order") or 7))
pathlib.Path(sys.argv[1], "ready").write_text(str(os.getpid()))
time.sleep(600)
"""


def start(folder: Path, program: str, *arguments: str) -> ChildProcess:
    return ChildProcess((sys.executable, "-c", program, *arguments), folder / "logs" / "child.log")


def ready(folder: Path) -> psutil.Process:
    """The process that says it is ready."""
    path = folder / "ready"
    while not (path.exists() and path.read_text()):
        os.sched_yield()
    return psutil.Process(int(path.read_text()))


def gone(process: psutil.Process, seconds: float = 10) -> bool:
    """Whether it ends in time; nobody may wait for an orphan's status, so a zombie has ended too."""
    psutil.wait_procs([process], timeout=0)
    for _ in range(int(seconds / 0.02)):
        if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
            return True
        psutil.wait_procs([process], timeout=0.02)
    return False


@pytest.mark.parametrize(
    ("program", "status", "description"),
    [
        ("pass", 0, "exit status 0"),
        ("raise SystemExit(3)", 3, "exit status 3"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, "SIGKILL"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGABRT)", -signal.SIGABRT, "SIGABRT"),
    ],
)
def test_the_status_is_that_of_the_command(tmp_path: Path, program: str, status: int, description: str) -> None:
    with start(tmp_path, program) as child:
        assert child.wait() == status
    assert describe_status(status) == description


def test_a_command_that_cannot_be_run_says_so_in_its_log(tmp_path: Path) -> None:
    with ChildProcess(("/no/such/program",), tmp_path / "child.log") as child:
        assert child.wait() == 127
    assert child.last_lines(1) == ["/no/such/program cannot be started: No such file or directory"]


def test_the_last_lines_are_those_of_this_start(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "child.log").write_text("of an earlier one\n")
    with start(tmp_path, r"import sys; print('one\n\ntwo'); sys.stderr.write('three')") as child:
        child.wait()
    assert sorted(child.last_lines(9)) == ["one", "three", "two"]
    assert len(child.last_lines(2)) == 2
    assert "earlier" in child.log.read_text()


def test_an_unwritable_log_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "logs").touch()
    with pytest.raises(StoreError, match="logs"):
        start(tmp_path, "pass")


@pytest.mark.parametrize(
    ("program", "grace", "status", "printed"), [(ORDERLY, 30, 7, ["in order"]), (DEAF, 0.1, -signal.SIGKILL, [])]
)
def test_a_child_ends_in_order_or_by_force(
    tmp_path: Path, program: str, grace: float, status: int, printed: list[str]
) -> None:
    child = start(tmp_path, program, str(tmp_path))
    process = ready(tmp_path)
    assert child.alive
    assert child.stop(grace) == status
    assert child.last_lines(1) == printed
    assert gone(process)


def test_orphans_in_other_sessions_are_killed_too(tmp_path: Path) -> None:
    child = start(tmp_path, TREE, str(tmp_path), "2", TREE)
    process = ready(tmp_path)
    child.kill()
    assert gone(process)
    assert not child.alive


def test_what_the_command_leaves_running_ends_with_it(tmp_path: Path) -> None:
    with start(tmp_path, TREE, str(tmp_path), "1", TREE) as child:
        process = ready(tmp_path)
        assert child.wait() == 0
    assert gone(process)


def test_the_end_of_the_command_is_seen_while_what_it_leaves_running_goes_on(tmp_path: Path) -> None:
    child = start(tmp_path, LEAVING, str(tmp_path), DEAF)
    process = ready(tmp_path)
    while not child.ended:
        os.sched_yield()
    assert child.alive
    assert child.command_status == 3
    child.kill()
    assert (child.status, child.command_status) == (3, 3)
    assert gone(process)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_to_the_group_is_meant_for_the_command_alone(tmp_path: Path, number: signal.Signals) -> None:
    with start(tmp_path, TREE, str(tmp_path), "0", TREE) as child:
        ready(tmp_path)
        os.kill(child.pid, number)
        assert child.wait(0.2) is None
        os.killpg(child.pid, number)
        assert child.wait(10) == -number


PARENT = """
import sys
from pathlib import Path
from tapir.models.process import ChildProcess
folder, program, grace = sys.argv[1:]
command = (sys.executable, "-c", program, folder, "2", program)
ChildProcess(command, Path(folder, "log"), orphan_grace=float(grace)).wait()
"""


@pytest.mark.parametrize(("program", "grace"), [(TREE, "0"), (DEAF, "0"), (ORDERLY, "30"), (DEAF, "0.1")])
def test_a_child_dies_with_a_parent_that_is_killed_in_order_if_it_is_given_time(
    tmp_path: Path, program: str, grace: str
) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path), program, grace])
    process = ready(tmp_path)
    parent.kill()
    parent.wait()
    assert gone(process)
    assert ("in order" in (tmp_path / "log").read_text()) == (program == ORDERLY)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGALRM])
def test_a_killed_supervisor_leaves_nothing_behind(tmp_path: Path, number: signal.Signals) -> None:
    child = start(tmp_path, DEAF, str(tmp_path))
    process = ready(tmp_path)
    os.kill(child.pid, number)
    child.wait()
    assert child.stop() == -number
    assert gone(process)


def test_descriptors_and_environment_are_passed_on(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    program = "import os, sys; os.write(int(sys.argv[1]), os.environ['TOLD'].encode())"
    command = (sys.executable, "-c", program, str(writing))
    environment = {**os.environ, "TOLD": "by the run"}
    with ChildProcess(command, tmp_path / "log", environment=environment, pass_fds=(writing,)) as child:
        os.close(writing)
        with os.fdopen(reading) as content:
            assert content.read() == "by the run"
        assert child.wait() == 0
