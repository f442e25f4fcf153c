"""An external program as the trainer: its input, what is taken from it, and what happens when it fails."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Literal

import pytest

from support.recording import RecordingProgress
from tapir.config.toml import parse
from tapir.config.training import ExternalTrainingConfig
from tapir.data.formats import FILES
from tapir.data.layouts import Row
from tapir.data.readers import read_file
from tapir.domain.errors import Interrupted, RecipeError, StoreFull, TrainingError
from tapir.domain.instruction import Turn
from tapir.domain.progress import SilentProgress
from tapir.domain.round import Checkpoint
from tapir.domain.training import Example, Preference, TrainJob, TrainReport
from tapir.models.local.loading import base_of, load
from tapir.training.external import ExternalTrainer

Layout = Literal["messages", "alpaca", "sharegpt"]
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft asks transformers
NANO = Checkpoint(str(resources.files("tapir.gym") / "nano"), 0)
EXAMPLES = [
    Example(f"{number:016x}", f"Calculate {number} + 1,\n\n  'please'. \u2028 漢字 👩\u200d🔬", f" {number + 1}\n")
    for number in range(5)
]
TALK = (Turn("system", "Count."), Turn("user", "Now?"), Turn("assistant", "5"))
EXAMPLES.append(Example("f" * 16, "And then?", "6", TALK, "5 and 1 are 6."))
COPY = """
import shutil, sys
shutil.copytree(sys.argv[1], sys.argv[2], dirs_exist_ok=True)
"""


def train(
    folder: Path,
    program: str,
    *arguments: str,
    layout: Layout = "messages",
    preferences: tuple[Preference, ...] = (),
    base: Checkpoint = NANO,
) -> TrainReport:
    """Run a program with these arguments; `folder / "checkpoint"` is what it leaves."""
    command = (sys.executable, "-c", program, *arguments)
    config = ExternalTrainingConfig(kind="command", command=command, format=layout)
    return ExternalTrainer(config).train(job(folder, preferences, base), SilentProgress())


def job(folder: Path, preferences: tuple[Preference, ...] = (), base: Checkpoint = NANO) -> TrainJob:
    return TrainJob(
        base,
        EXAMPLES,
        out=folder / "checkpoint",
        work=folder / "training",
        number=2,
        epochs=1.5,
        seed=2**40 + 3,
        preferences=preferences,
    )


PAIR = Preference("a", "Which?", "this one", "that one")


@pytest.mark.parametrize(
    ("layout", "keys"),
    [
        ("messages", {"prompt", "chosen", "rejected"}),
        ("alpaca", {"instruction", "input", "chosen", "rejected"}),
        ("sharegpt", {"conversations", "chosen", "rejected"}),
    ],
)
def test_examples_and_preferences_arrive_and_the_checkpoint_is_the_next_student(
    tmp_path: Path, layout: Layout, keys: set[str]
) -> None:
    report = train(tmp_path, COPY, "{base}", "{out}", "{data}{preferences}", layout=layout, preferences=(PAIR,))
    work = tmp_path / "training"
    rows = list(read_file(work / f"data{FILES[layout]}"))
    assert [(row.text, row.response, row.context, row.thought) for row in rows if isinstance(row, Row)] == [
        (example.prompt, example.answer, example.context, example.thought) for example in EXAMPLES
    ]
    text = (work / f"preferences{FILES[layout]}").read_text()
    (pair,) = json.loads(text) if layout != "messages" else [json.loads(line) for line in text.splitlines()]
    assert set(pair) == keys
    assert "this one" in str(pair["chosen"])
    assert "that one" in str(pair["rejected"])
    model, tokenizer = load(Checkpoint(str(tmp_path / "checkpoint"), 2))
    assert tokenizer.chat_template
    assert sum(part.numel() for part in model.parameters()) > 0
    assert report.steps == 0
    assert not (work / "out").exists()


def test_a_checkpoint_is_named_so_that_it_is_found_from_every_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ExternalTrainingConfig(kind="command", command=(sys.executable, "{data}", "{out}"), format="messages")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(NANO.path, "earlier")
    for base, named in (("earlier", str(tmp_path / "earlier")), ("org/model", "org/model")):
        inputs = ExternalTrainer(config)._write_inputs(replace(job(tmp_path), base=Checkpoint(base, 1)))
        assert inputs["base"] == named


def test_every_placeholder_is_filled_and_other_braces_stay(tmp_path: Path) -> None:
    program = COPY + "import json; json.dump(sys.argv[3:], open(sys.argv[3] + '/seen', 'w'))"
    others = ("{work}", "{data}", "-s={seed}", "{epochs}", "r{round}", "{preferences}", '{"a": {"b": 1}}', "${HOME}")
    train(tmp_path, program, "{base}", "{out}", *others)
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


def test_losses_and_tokens_are_read_from_what_it_says(tmp_path: Path) -> None:
    output = """
print("starting")
print('{"step": 1, "loss": 2}')
print("{broken")
print('[{"step": 9}]')
print('{"step": 3, "loss": 1.5, "tokens": 900}')
print('{"step": 3, "loss": 1.25}')
"""
    report = train(tmp_path, COPY + output, "{base}", "{out}", "{data}")
    assert report.loss == [(1, 2.0), (3, 1.25)]
    assert (report.steps, report.tokens) == (3, 900)


def test_a_loss_that_is_not_a_number_is_an_error(tmp_path: Path) -> None:
    output = """print('{"step": 1, "loss": NaN}')"""
    with pytest.raises(TrainingError, match="loss is nan at step 1"):
        train(tmp_path, COPY + output, "{base}", "{out}", "{data}")
    assert not (tmp_path / "checkpoint").exists()


def test_the_tokenizer_of_the_base_is_added_where_there_is_none(tmp_path: Path) -> None:
    program = COPY + "import pathlib\nfor one in pathlib.Path(sys.argv[2]).glob('*token*'): one.unlink()"
    train(tmp_path, program, "{base}", "{out}", "{data}")
    _, tokenizer = load(Checkpoint(str(tmp_path / "checkpoint"), 2))
    assert tokenizer.chat_template


def test_a_model_is_taken_without_the_training_states_beside_it_or_else_the_last_state(tmp_path: Path) -> None:
    program = COPY + "import os; os.makedirs(sys.argv[2] + '/checkpoint-5')"
    train(tmp_path / "model", program, "{base}", "{out}", "{data}")
    assert not (tmp_path / "model" / "checkpoint" / "checkpoint-5").exists()
    state = COPY.replace("sys.argv[2]", "sys.argv[2] + '/checkpoint-' + sys.argv[4]")
    train(tmp_path / "states", f"{state}\nsys.argv[4] = '9'\n{state}", "{base}", "{out}", "{data}", "10")
    assert (tmp_path / "states" / "checkpoint" / "config.json").exists()
    assert [path.name for path in (tmp_path / "states" / "training" / "out").iterdir()] == ["checkpoint-9"]


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


def test_an_adapter_of_the_base_stays_one_and_one_whose_base_goes_with_the_training_is_merged(
    tmp_path: Path, adapter: str
) -> None:
    program = ADAPTER + f"if not pathlib.Path(base).exists(): shutil.copytree({NANO.path!r}, base)"
    for name, base, left in (("stays", "{base}", NANO.path), ("goes", "{work}/base", None)):
        train(tmp_path / name, program, adapter, base, "{out}", "{data}")
        assert base_of(str(tmp_path / name / "checkpoint")) == left
        shutil.rmtree(tmp_path / name / "training")
        load(Checkpoint(str(tmp_path / name / "checkpoint"), 2))


def test_a_program_trains_on_from_an_adapter_as_a_whole_model(tmp_path: Path, adapter: str) -> None:
    train(tmp_path / "first", ADAPTER, adapter, "{base}", "{out}", "{data}")
    first = Checkpoint(str(tmp_path / "first" / "checkpoint"), 1)
    assert base_of(first.path) == NANO.path
    train(tmp_path / "second", ADAPTER, adapter, "{base}", "{out}", "{data}", base=first)
    second = Checkpoint(str(tmp_path / "second" / "checkpoint"), 2)
    assert base_of(second.path) is None
    shutil.rmtree(tmp_path / "second" / "training")
    load(second)


@pytest.mark.parametrize(
    ("program", "problem"),
    [
        (
            "import sys; print('reading'); sys.exit('no such optimiser')",
            r"(?s)exit status 1.*reading.*no such optimiser",
        ),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "ended with SIGKILL"),
    ],
)
def test_a_failure_shows_how_it_ended_the_last_lines_and_the_log(tmp_path: Path, program: str, problem: str) -> None:
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "command.log").write_text("of an earlier attempt: No space left on device\n")
    with pytest.raises(TrainingError, match=problem) as failure:
        train(tmp_path, program, "{data}{out}")
    assert "earlier attempt" not in str(failure.value)
    assert "command.log" in failure.value.remedy
    assert not (tmp_path / "checkpoint").exists()


def test_a_full_disk_in_the_program_is_a_full_disk(tmp_path: Path) -> None:
    program = "import os, errno; raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))"
    with pytest.raises(StoreFull):
        train(tmp_path, program, "{data}{out}")


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
        train(tmp_path, COPY + after, "{base}", "{out}", "{data}")
    assert not (tmp_path / "checkpoint").exists()


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (("python3", "{data}", "{out}", "{model}"), "{model} has no meaning"),
        (("python3", "{out}"), "does not use {data}"),
        (("python3", "{data}"), "does not use {out}"),
        (("no-such-trainer", "{data}", "{out}"), "no program 'no-such-trainer'"),
    ],
)
def test_a_command_that_cannot_work_is_refused_before_anything_is_spent(command: tuple[str, ...], why: str) -> None:
    with pytest.raises(RecipeError, match=why):
        ExternalTrainer(ExternalTrainingConfig(kind="command", command=command))


@pytest.mark.parametrize("keys", [{"command": []}, {"command": ["python3", "{data}{out}"], "format": "csv"}])
def test_an_empty_command_and_an_unknown_layout_are_errors_in_the_recipe(keys: dict[str, object]) -> None:
    with pytest.raises(RecipeError, match=r"training\.(command|format)"):
        parse({"training": {"kind": "command", **keys}})


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
    own = tmp_path / "training" / "own"

    class Stopping(RecordingProgress):
        """Stops once the program has said that it is ready."""

        @property
        def stopping(self) -> bool:
            return (own / "ready").exists()

    config = ExternalTrainingConfig(
        kind="command", command=(sys.executable, "-c", SLOW, "{work}", "{base}", "{out}", "{data}")
    )
    with pytest.raises(Interrupted):
        ExternalTrainer(config).train(job(tmp_path), Stopping())
    assert (own / "saved").read_text() == "in order"
    assert not (tmp_path / "checkpoint").exists()
    ExternalTrainer(config).train(job(tmp_path), SilentProgress())
    assert (tmp_path / "checkpoint" / "config.json").exists()
