"""Preference optimisation after fine-tuning, with the real trainers and the real student."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from support import training
from support.recording import RecordingProgress
from support.training import EXAMPLES, FULL, LORA, NANO, NOISE, changed, job_in, losses_apart, weights
from tapir.config.training import AccelerateLaunchConfig, DpoConfig, SftConfig
from tapir.domain.errors import Interrupted, TrainingError
from tapir.domain.round import Checkpoint
from tapir.domain.training import Preference, TrainReport
from tapir.models.local.loading import load
from tapir.training.launch import AccelerateTrainer
from tapir.training.sft import SftTrainer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),  # TRL's own, in transformers 5.23
]

PAIRS = [
    Preference(example.id, example.prompt, f"It is {example.answer}.", f"It is {int(example.answer) + 3}.")
    for example in EXAMPLES
]
DPO = DpoConfig(beta=0.1, learning_rate=1e-3, epochs=3)


def train(
    folder: Path,
    config: SftConfig = FULL,
    progress: RecordingProgress | None = None,
    pairs: Sequence[Preference] = PAIRS,
) -> TrainReport:
    job = replace(job_in(folder, epochs=1), preferences=pairs)
    return SftTrainer(changed(config, dpo=DPO)).train(job, progress or RecordingProgress())


def margins(folder: Path, pairs: Sequence[Preference]) -> float:
    """How much likelier the preferred answers are than the others, in nats, over all pairs."""
    import torch

    model, tokenizer = load(Checkpoint(str(folder), 1))
    total = 0.0
    for pair in pairs:
        asked = [{"role": "user", "content": pair.prompt}]
        start = len(tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=True, return_dict=False))
        for answer, sign in ((pair.chosen, 1), (pair.rejected, -1)):
            chat = [*asked, {"role": "assistant", "content": answer}]
            whole = tokenizer.apply_chat_template(chat, tokenize=True, return_dict=False)
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([whole])).logits[0, :-1].log_softmax(-1)
            total += sign * float(logits.gather(1, torch.tensor(whole[1:])[:, None])[start - 1 :].sum())
    return total


@pytest.mark.parametrize("config", [FULL, LORA], ids=["full", "adapter"])
def test_what_is_preferred_becomes_likelier_than_what_is_not(tmp_path: Path, config: SftConfig) -> None:
    alone = tmp_path / "alone"
    training.train(alone, config, epochs=1)
    report = train(tmp_path / "both", config)
    before, after = (margins(folder / "checkpoint", PAIRS[:6]) for folder in (alone, tmp_path / "both"))
    assert after > before + 6
    first, last = report.preference_loss[0][1], report.preference_loss[-1][1]
    assert first == pytest.approx(0.693, abs=0.05), "it begins at ln 2, where nothing is preferred yet"
    assert last < first
    assert report.loss
    adapter = tmp_path / "both" / "checkpoint" / "adapter_config.json"
    assert adapter.is_file() == (config.method == "lora")
    assert config.method == "full" or NANO.path in adapter.read_text()
    assert not (adapter.parent / "ref").exists()


def test_stopped_in_the_second_part_it_goes_on_there_and_ends_in_the_same_weights(tmp_path: Path) -> None:
    config = changed(FULL, save_every=2)
    whole = train(tmp_path / "whole", config)
    with pytest.raises(Interrupted):
        train(tmp_path / "halves", config, RecordingProgress(stops_after=3 + 4))
    assert not (tmp_path / "halves" / "checkpoint").exists()
    progress = RecordingProgress()
    halves = train(tmp_path / "halves", config, progress)
    assert progress.resumes == [(9, 4)], "three steps of fine-tuning are not made again"
    assert halves.preference_loss == whole.preference_loss
    ours, theirs = (weights(tmp_path / name / "checkpoint") for name in ("halves", "whole"))
    assert all(ours[name].equal(theirs[name]) for name in theirs)


def distance(folder: Path, other: Path) -> float:
    """Of all weights together: single ones whose gradient is nearly 0 go up or down by rounding alone."""
    first, second = weights(folder), weights(other)
    assert first.keys() == second.keys()
    return math.hypot(*(float((first[name] - second[name]).norm()) for name in first))


def test_two_processes_learn_the_same_as_one_whatever_an_earlier_attempt_has_left(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    alone = train(one)
    job = replace(job_in(two, epochs=1), preferences=PAIRS)
    left = job.work / "preferences" / "pairs" / "state.json"
    left.parent.mkdir(parents=True)
    left.write_text("{")
    launch = AccelerateLaunchConfig(kind="accelerate", processes=2, config="ddp")
    together = AccelerateTrainer(SftTrainer(changed(FULL, dpo=DPO)), launch).train(job, RecordingProgress())
    alone, together = (replace(report, loss=report.preference_loss) for report in (alone, together))
    assert losses_apart(alone, together) < NOISE
    learnt = distance(one / "training" / "tuned", one / "checkpoint")
    assert distance(one / "checkpoint", two / "checkpoint") < learnt / 100


def test_pairs_that_teach_nothing_are_left_out_and_noted(tmp_path: Path) -> None:
    useless = [
        replace(PAIRS[0], id="a" * 16, rejected=" "),
        replace(PAIRS[0], id="b" * 16, rejected=PAIRS[0].chosen),
        replace(PAIRS[0], id="c" * 16, chosen="1 " * 80),
    ]
    progress = RecordingProgress()
    report = train(tmp_path / "some", progress=progress, pairs=[*PAIRS, *useless])
    assert [*report.preferences_left_out] == [pair.id for pair in useless]
    assert sum(note.startswith("1 of 27 preference pairs left out: ") for note in progress.notes) == 3
    with pytest.raises(TrainingError, match="none of the 3 preference pairs"):
        train(tmp_path / "none", pairs=useless)


def test_without_preferences_it_is_fine_tuning_alone(tmp_path: Path) -> None:
    report = train(tmp_path / "none", pairs=[])
    alone = training.train(tmp_path / "alone", epochs=1)
    assert report.loss == alone.loss
    assert report.preference_loss == ()
