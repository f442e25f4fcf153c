"""The student of a round as a folder that `transformers` loads, with its card."""

from __future__ import annotations

import fnmatch
import json
import shutil
from pathlib import Path
from typing import Any

from tapir.domain.round import Checkpoint
from tapir.errors import DataError
from tapir.export.facts import Facts, facts
from tapir.export.folder import Exported, Mark, drafted, run_id
from tapir.export.texts import environment
from tapir.store.files import read_json, write_json, write_text
from tapir.store.run import RunStore
from tapir.students.checkpoint import ADAPTER, base_of
from tapir.students.load import AS_IT_IS, ModelSettings

_KEPT = (
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "generation_config.json",
    ADAPTER,
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "*.model",
    "*.tiktoken",
    "*.py",
)


def finished_students(store: RunStore) -> list[int]:
    """Rounds that left a student; 0 is S_0, where a warm-up made one of its own."""
    number, found = 0, []
    while store.round(number).exists():
        folder = store.round(number)
        if (folder / "checkpoint").is_dir() and (folder / "training.json").is_file():
            found.append(number)
        number += 1
    return found


def export_model(
    store: RunStore,
    out: Path,
    number: int | None = None,
    *,
    adapter: bool = False,
    settings: ModelSettings = AS_IT_IS,
) -> Exported:
    """Write the student of a round with its tokenizer and a model card.

    Args:
        store: the run.
        out: folder to make.
        number: round; None for the last.
        adapter: leave a LoRA adapter as it is; else it is merged into its base.
        settings: how the base of an adapter is loaded.

    Returns:
        The folder, and what its reader should know.

    Raises:
        DataError: there is no such student, or no adapter.
        StoreError: the folder holds something else.
        RoleError: the checkpoint, or the base of the adapter, cannot be loaded.
    """
    student = _student(store, number)
    base = base_of(student.path)
    if adapter and base is None:
        raise DataError(
            f"S_{student.round} was trained in full: there is no adapter",
            remedy="Leave --adapter out: export the model.",
        )
    told = facts(store, student.round, _learnt_from(store, student.round))
    with drafted(out, Mark("model", run_id(store), (student.round,))) as draft:
        if adapter:
            shutil.copytree(student.path, draft)
        else:
            _whole(student, draft, settings)
        _tidy(draft)
        write_text(draft / "README.md", _card(told, out.name, adapter=adapter))
    return Exported(out, tuple(_notes(told, adapter=adapter)))


def _student(store: RunStore, number: int | None) -> Checkpoint:
    found = finished_students(store)
    if not found:
        raise DataError(
            f"{store.folder} has no trained student yet",
            remedy=f"Go on with `tapir resume {store.folder}`, then export.",
        )
    if number is None:
        number = found[-1]
    if number not in found:
        students = ", ".join(f"S_{one}" for one in found)
        why = " (S_0 is the student as it came: without a warm-up the run made none)" if number == 0 else ""
        raise DataError(
            f"{store.folder} has no student of round {number}{why}; there are {students}",
            remedy="Choose one of these with --round.",
        )
    return Checkpoint(str(store.round(number) / "checkpoint"), number)


def _whole(student: Checkpoint, draft: Path, settings: ModelSettings) -> None:
    """A whole model in safetensors with a generation config, whatever the trainer left."""
    from tapir.training.merge import merge

    merge(Path(student.path), draft, settings)
    if not any(draft.glob("*.safetensors")):
        from transformers import AutoModelForCausalLM

        AutoModelForCausalLM.from_pretrained(str(draft), dtype="auto").save_pretrained(str(draft))
    if not (draft / "generation_config.json").exists():
        from transformers import AutoConfig, GenerationConfig

        GenerationConfig.from_model_config(AutoConfig.from_pretrained(str(draft))).save_pretrained(str(draft))


def _tidy(draft: Path) -> None:
    """Leave out what is not part of the model, and the folders of this machine."""
    for path in list(draft.iterdir()):
        if path.is_dir() and path.name != "additional_chat_templates":
            shutil.rmtree(path)
        elif path.is_file() and not any(fnmatch.fnmatch(path.name, pattern) for pattern in _KEPT):
            path.unlink()
    for path in draft.glob("*config.json"):
        content = json.loads(path.read_text("utf-8"))
        if (without := {key: _named(value) for key, value in content.items()}) != content:
            write_json(path, without)


def _named(value: Any) -> Any:
    """A folder's name in place of its path; texts such as chat templates stay."""
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() and "\n" not in value else value


def _learnt_from(store: RunStore, number: int) -> tuple[int, ...]:
    """Rounds whose examples the student of a round has seen."""
    recipe = read_json(store.folder / "recipe.json", "Name the folder of a run, e.g. runs/gym.")
    return tuple(range(1, number + 1))[-1 if recipe["curriculum"]["continue_from"] == "warm-up" else 0 :]


def _card(told: Facts, title: str, *, adapter: bool) -> str:
    template = environment().get_template("model-card.md.j2")
    base = told.base.name if told.base.hub else f"path/to/{told.base.name}"
    return template.render(f=told, title=title, adapter=adapter, base=base).lstrip("\n")


def _notes(told: Facts, *, adapter: bool) -> list[str]:
    found = [f"S_{told.number} of {told.name}{', as an adapter' if adapter else ''}"]
    if not told.base.hub and told.base.name != "nano":
        found.append(f"its base {told.base.name} is a folder of this machine: others cannot find it by that name")
    return [*found, "no licence is chosen: read the card's last part but one before you publish"]
