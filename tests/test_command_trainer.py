"""A program as the trainer: what it is given, what is taken from it, and what happens when it fails."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from importlib import resources
from pathlib import Path

import pytest

from tapir.data.readers import read_file
from tapir.data.row import Row
from tapir.domain.round import Checkpoint
from tapir.errors import Interrupted, RecipeError, StoreFull, TrainingError
from tapir.roles import Example, Preference, TrainJob
from tapir.session import SilentWatch
from tapir.students.checkpoint import base_of
from tapir.students.load import load
from tapir.training.command import CommandSettings, CommandTrainer
from tapir.training.formats import FILES
from tapir.training.program import Program

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft asks transformers
NANO = Checkpoint(str(resources.files("tapir.gym") / "nano"), 0)
EXAMPLES = [
    Example(f"{number:016x}", f"Calculate {number} + 1,\n\n  'please'. \u2028 漢字 👩\u200d🔬", f" {number + 1}\n")
    for number in range(5)
]
COPY = """
import shutil, sys
shutil.copytree(sys.argv[1], sys.argv[2], dirs_exist_ok=True)
"""


def trainer(program: str, *arguments: str, layout: str = "messages") -> CommandTrainer:
    return CommandTrainer(CommandSettings((sys.executable, "-c", program, *arguments), layout))


def job(folder: Path, preferences: tuple[Preference, ...] = ()) -> TrainJob:
    return TrainJob(
        NANO,
        EXAMPLES,
        out=folder / "checkpoint",
        work=folder / "training",
        number=2,
        epochs=1.5,
        seed=2**40 + 3,
        preferences=preferences,
    )


def test_what_the_program_leaves_is_the_next_student(tmp_path: Path) -> None:
    report = trainer(COPY, "{base}", "{out}", "{data}").train(job(tmp_path), SilentWatch())
    model, tokenizer = load(Checkpoint(str(tmp_path / "checkpoint"), 2))
    assert tokenizer.chat_template
    assert sum(one.numel() for one in model.parameters()) > 0
    assert report.steps == 0
    assert not (tmp_path / "training" / "out").exists()


@pytest.mark.parametrize("layout", ["messages", "alpaca", "sharegpt"])
def test_the_examples_arrive_as_they_are(tmp_path: Path, layout: str) -> None:
    trainer(COPY, "{base}", "{out}", "{data}", layout=layout).train(job(tmp_path), SilentWatch())
    rows = list(read_file(tmp_path / "training" / f"data{FILES[layout]}"))
    assert [(row.text, row.response) for row in rows if isinstance(row, Row)] == [
        (one.prompt, one.answer) for one in EXAMPLES
    ]


def test_every_placeholder_is_filled_and_other_braces_stay(tmp_path: Path) -> None:
    program = COPY + "import json; json.dump(sys.argv[3:], open(sys.argv[3] + '/seen', 'w'))"
    others = ("{work}", "{data}", "-s={seed}", "{epochs}", "r{round}", "{preferences}", '{"a": {"b": 1}}', "${HOME}")
    trainer(program, "{base}", "{out}", *others).train(job(tmp_path), SilentWatch())
    work = (tmp_path / "training").resolve()
    assert json.loads((work / "own" / "seen").read_text()) == [
        str(work / "own"),
        str(work / "data.jsonl"),
        "-s=3",
        "1.5",
        "r2",
        str(work / "preferences.jsonl"),
        '{"a": {"b": 1}}',
        "${HOME}",
    ]


@pytest.mark.parametrize(
    ("layout", "keys"),
    [
        ("messages", {"prompt", "chosen", "rejected"}),
        ("alpaca", {"instruction", "input", "chosen", "rejected"}),
        ("sharegpt", {"conversations", "chosen", "rejected"}),
    ],
)
def test_preferences_are_handed_on_too(tmp_path: Path, layout: str, keys: set[str]) -> None:
    one = job(tmp_path, (Preference("a", "Which?", "this one", "that one"),))
    trainer(COPY, "{base}", "{out}", "{data}{preferences}", layout=layout).train(one, SilentWatch())
    written = (tmp_path / "training" / f"preferences{FILES[layout]}").read_text()
    found = json.loads(written) if layout != "messages" else [json.loads(line) for line in written.splitlines()]
    assert set(found[0]) == keys
    assert "this one" in str(found[0]["chosen"])
    assert "that one" in str(found[0]["rejected"])


def test_losses_and_tokens_are_read_from_what_it_says(tmp_path: Path) -> None:
    said = """
print("starting")
print('{"step": 1, "loss": 2}')
print("{broken")
print('[{"step": 9}]')
print('{"step": 3, "loss": 1.5, "tokens": 900}')
print('{"step": 3, "loss": 1.25}')
"""
    report = trainer(COPY + said, "{base}", "{out}", "{data}").train(job(tmp_path), SilentWatch())
    assert report.loss == [(1, 2.0), (3, 1.25)]
    assert (report.steps, report.tokens) == (3, 900)


def test_a_loss_that_is_not_a_number_is_an_error(tmp_path: Path) -> None:
    said = """print('{"step": 1, "loss": NaN}')"""
    with pytest.raises(TrainingError, match="loss is nan at step 1"):
        trainer(COPY + said, "{base}", "{out}", "{data}").train(job(tmp_path), SilentWatch())
    assert not (tmp_path / "checkpoint").exists()


def test_the_tokenizer_of_the_base_is_added_where_there_is_none(tmp_path: Path) -> None:
    program = COPY + "import pathlib\nfor one in pathlib.Path(sys.argv[2]).glob('*token*'): one.unlink()"
    trainer(program, "{base}", "{out}", "{data}").train(job(tmp_path), SilentWatch())
    _, tokenizer = load(Checkpoint(str(tmp_path / "checkpoint"), 2))
    assert tokenizer.chat_template


def test_the_last_training_state_is_taken_where_nothing_else_is_left(tmp_path: Path) -> None:
    program = COPY.replace("sys.argv[2]", "sys.argv[2] + '/checkpoint-' + sys.argv[4]")
    both = f"{program}\nsys.argv[4] = '9'\n{program}"
    trainer(both, "{base}", "{out}", "{data}", "10").train(job(tmp_path), SilentWatch())
    load(Checkpoint(str(tmp_path / "checkpoint"), 2))
    assert (tmp_path / "training" / "out" / "checkpoint-9").exists()
    assert not (tmp_path / "training" / "out" / "checkpoint-10").exists()


def test_training_states_beside_the_model_are_left_behind(tmp_path: Path) -> None:
    program = COPY + "import os; os.makedirs(sys.argv[2] + '/checkpoint-5')"
    trainer(program, "{base}", "{out}", "{data}").train(job(tmp_path), SilentWatch())
    assert not (tmp_path / "checkpoint" / "checkpoint-5").exists()


ADAPTER = """
import json, pathlib, shutil, sys
made, base, out = sys.argv[1:4]
shutil.copytree(made, out)
config = pathlib.Path(out, "adapter_config.json")
config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": base}))
"""


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An adapter of the built-in student, without a tokenizer, as peft saves it."""
    from peft import LoraConfig, get_peft_model

    model, _ = load(NANO)
    folder = str(tmp_path_factory.mktemp("made"))
    get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear")).save_pretrained(folder)
    return folder


def test_an_adapter_of_the_base_stays_an_adapter(tmp_path: Path, adapter: str) -> None:
    trainer(ADAPTER, adapter, "{base}", "{out}", "{data}").train(job(tmp_path), SilentWatch())
    assert base_of(str(tmp_path / "checkpoint")) == NANO.path
    load(Checkpoint(str(tmp_path / "checkpoint"), 2))


def test_an_adapter_whose_base_goes_with_the_training_is_merged(tmp_path: Path, adapter: str) -> None:
    program = ADAPTER + f"shutil.copytree({NANO.path!r}, base)"
    trainer(program, adapter, "{work}/base", "{out}", "{data}").train(job(tmp_path), SilentWatch())
    assert base_of(str(tmp_path / "checkpoint")) is None
    shutil.rmtree(tmp_path / "training")
    load(Checkpoint(str(tmp_path / "checkpoint"), 2))


def test_a_failure_shows_the_last_words_and_the_log(tmp_path: Path) -> None:
    program = "import sys; print('reading'); sys.exit('no such optimiser: adamx')"
    with pytest.raises(TrainingError, match=r"(?s)exit status 1.*reading.*no such optimiser: adamx") as failure:
        trainer(program, "{data}{out}").train(job(tmp_path), SilentWatch())
    assert "command.log" in failure.value.remedy
    assert not (tmp_path / "checkpoint").exists()


def test_a_program_ended_by_a_signal_is_said_so(tmp_path: Path) -> None:
    program = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    with pytest.raises(TrainingError, match="ended by SIGKILL"):
        trainer(program, "{data}{out}").train(job(tmp_path), SilentWatch())


def test_a_full_disk_in_the_program_is_a_full_disk(tmp_path: Path) -> None:
    program = "import os, errno; raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))"
    with pytest.raises(StoreFull):
        trainer(program, "{data}{out}").train(job(tmp_path), SilentWatch())


@pytest.mark.parametrize(
    ("after", "why"),
    [
        ("import os; os.remove(sys.argv[2] + '/config.json')", "neither config.json nor adapter_config.json"),
        ("import os; os.remove(sys.argv[2] + '/model.safetensors')", "no weights"),
        ("import os; os.truncate(sys.argv[2] + '/model.safetensors', 9000)", "damaged"),
        ("open(sys.argv[2] + '/tokenizer.json', 'w').write('{')", "no student can be loaded"),
    ],
)
def test_what_cannot_be_loaded_is_not_taken(tmp_path: Path, after: str, why: str) -> None:
    with pytest.raises(TrainingError, match=why):
        trainer(COPY + after, "{base}", "{out}", "{data}").train(job(tmp_path), SilentWatch())
    assert not (tmp_path / "checkpoint").exists()


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ((), "is empty"),
        (("python3", "{data}", "{out}", "{model}"), "{model} has no meaning"),
        (("python3", "{out}"), "does not use {data}"),
        (("python3", "{data}"), "does not use {out}"),
        (("no-such-trainer", "{data}", "{out}"), "no program 'no-such-trainer'"),
    ],
)
def test_a_command_that_cannot_work_is_refused_before_anything_is_spent(command: tuple[str, ...], why: str) -> None:
    with pytest.raises(RecipeError, match=why):
        CommandTrainer(CommandSettings(command, "messages"))


def test_a_layout_nobody_knows_is_refused() -> None:
    with pytest.raises(RecipeError, match="'csv' is no layout"):
        CommandTrainer(CommandSettings((sys.executable, "{data}{out}"), "csv"))


SLOW = """
import pathlib, signal, sys, time
own = pathlib.Path(sys.argv[1])
def stop(*_):
    (own / "saved").write_text("in order")
    sys.exit(0)
if not (own / "saved").exists():
    signal.signal(signal.SIGTERM, stop)
    (own / "ready").touch()
    time.sleep(600)
import shutil
shutil.copytree(sys.argv[2], sys.argv[3], dirs_exist_ok=True)
"""


def test_a_stop_ends_the_program_in_order_and_it_goes_on_by_itself(tmp_path: Path) -> None:
    one, slow = job(tmp_path), trainer(SLOW, "{work}", "{base}", "{out}", "{data}")
    watch = SilentWatch()
    ready = tmp_path / "training" / "own" / "ready"
    threading.Thread(target=_stop_after, args=(ready, watch), daemon=True).start()
    with pytest.raises(Interrupted):
        slow.train(one, watch)
    assert (tmp_path / "training" / "own" / "saved").read_text() == "in order"
    assert not (tmp_path / "checkpoint").exists()
    slow.train(one, SilentWatch())
    assert (tmp_path / "checkpoint" / "config.json").exists()


def test_a_program_that_does_not_listen_is_killed_with_all_it_started(tmp_path: Path) -> None:
    child = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
    )
    deaf = f"""
import pathlib, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", {child!r}], stdout=subprocess.PIPE)
child.stdout.readline()
pathlib.Path(sys.argv[1]).write_text(str(child.pid))
time.sleep(600)
"""
    ready = tmp_path / "child"
    watch = SilentWatch()
    threading.Thread(target=_stop_after, args=(ready, watch), daemon=True).start()
    program = Program((sys.executable, "-c", deaf, str(ready)), tmp_path / "command.log", grace=0.5)
    assert program.run(watch) is None
    assert not _running(int(ready.read_text()))


def test_a_program_that_outlived_a_killed_session_is_ended_first(tmp_path: Path) -> None:
    """A killed session leaves its program behind; a second one beside it would write to the same files."""
    program = "import os, pathlib, sys, time; pathlib.Path(sys.argv[1]).write_text(str(os.getpid())); time.sleep(600)"
    session = f"""
import sys
from pathlib import Path
from tapir.session import SilentWatch
from tapir.training.program import Program
Program((sys.executable, "-c", {program!r}, {str(tmp_path / "first")!r}), Path({str(tmp_path / "command.log")!r})).run(
    SilentWatch())
"""
    killed = subprocess.Popen([sys.executable, "-c", session])
    _wait_for(tmp_path / "first")
    killed.kill()
    killed.wait()
    first = int((tmp_path / "first").read_text())
    assert _running(first)
    second = Program((sys.executable, "-c", "print('alone')"), tmp_path / "command.log", grace=5)
    assert second.run(SilentWatch()) == 0
    assert not _running(first)
    assert "alone" in (tmp_path / "command.log").read_text()


def _stop_after(path: Path, watch: SilentWatch) -> None:
    _wait_for(path)
    watch.stop()


def _wait_for(path: Path) -> None:
    while not (path.exists() and (path.name == "ready" or path.read_text())):
        time.sleep(0.02)
    time.sleep(0.05)


def _running(process: int) -> bool:
    """Whether it is there and no zombie that nobody has waited for."""
    try:
        os.kill(process, signal.SIG_DFL)
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (ProcessLookupError, FileNotFoundError):
        return False
    return state != "Z"
