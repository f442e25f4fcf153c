"""Preference optimisation after fine-tuning, with the real trainers and the real student."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tapir.domain.round import Checkpoint
from tapir.errors import Interrupted, TrainingError
from tapir.roles import Preference, TrainReport
from tapir.students.load import load
from tapir.training.dpo import DpoSettings, SftThenDpo
from tapir.training.settings import SftSettings
from tapir.training.sft import SftTrainer
from tests import tuning

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),  # TRL's own, in transformers 5.23
]

PAIRS = [
    Preference(one.id, one.prompt, f"It is {one.answer}.", f"It is {int(one.answer) + 3}.") for one in tuning.EXAMPLES
]
DPO = DpoSettings(beta=0.1, learning_rate=1e-3, epochs=3)


def train(
    folder: Path,
    settings: SftSettings = tuning.SETTINGS,
    watch: tuning.Heard | None = None,
    pairs: list[Preference] = PAIRS,
) -> TrainReport:
    job = replace(tuning.job_in(folder, epochs=1), preferences=pairs)
    return SftThenDpo(SftTrainer(settings), DPO).train(job, watch or tuning.Heard())


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


@pytest.mark.parametrize("settings", [tuning.SETTINGS, tuning.LORA], ids=["full", "adapter"])
def test_what_is_preferred_becomes_likelier_than_what_is_not(tmp_path: Path, settings: SftSettings) -> None:
    alone = tmp_path / "alone"
    tuning.train(alone, settings, epochs=1)
    report = train(tmp_path / "both", settings)
    before, after = (margins(folder / "checkpoint", PAIRS[:6]) for folder in (alone, tmp_path / "both"))
    assert after > before + 6
    first, last = report.preference_loss[0][1], report.preference_loss[-1][1]
    assert first == pytest.approx(0.693, abs=0.05), "it begins at ln 2, where nothing is preferred yet"
    assert last < first
    assert report.loss


def test_an_adapter_is_saved_without_the_reference_and_names_its_first_base(tmp_path: Path) -> None:
    train(tmp_path, tuning.LORA)
    assert (tmp_path / "checkpoint" / "adapter_config.json").is_file()
    assert not (tmp_path / "checkpoint" / "ref").exists()
    assert tuning.NANO.path in (tmp_path / "checkpoint" / "adapter_config.json").read_text()


def test_stopped_in_the_second_part_it_goes_on_there_and_ends_in_the_same_weights(tmp_path: Path) -> None:
    settings = replace(tuning.SETTINGS, save_every=2)
    whole = train(tmp_path / "whole", settings)
    with pytest.raises(Interrupted):
        train(tmp_path / "halves", settings, tuning.Heard(stops_after=3 + 4))
    assert not (tmp_path / "halves" / "checkpoint").exists()
    heard = tuning.Heard()
    halves = train(tmp_path / "halves", settings, heard)
    assert heard.starts == [(9, 4)], "three steps of fine-tuning are not made again"
    assert halves.preference_loss == whole.preference_loss
    ours, theirs = (tuning.weights(tmp_path / name / "checkpoint") for name in ("halves", "whole"))
    assert all(ours[name].equal(theirs[name]) for name in theirs)


def test_pairs_that_teach_nothing_are_left_out_and_said_so(tmp_path: Path) -> None:
    useless = [
        replace(PAIRS[0], id="a" * 16, rejected=" "),
        replace(PAIRS[0], id="b" * 16, rejected=PAIRS[0].chosen),
        replace(PAIRS[0], id="c" * 16, chosen="1 " * 80),
    ]
    heard = tuning.Heard()
    train(tmp_path / "some", watch=heard, pairs=[*PAIRS, *useless])
    assert any(note.startswith("3 of 27 preference pairs left out") for note in heard.notes)
    with pytest.raises(TrainingError, match="none of the 3 preference pairs"):
        train(tmp_path / "none", pairs=useless)


def test_without_preferences_it_is_fine_tuning_alone(tmp_path: Path) -> None:
    report = train(tmp_path / "none", pairs=[])
    alone = tuning.train(tmp_path / "alone", epochs=1)
    assert report.loss == alone.loss
    assert report.preference_loss == ()
