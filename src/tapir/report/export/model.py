"""Student of a round as a folder that `transformers` loads, with its card."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from tapir.config.toml import parse, without_idle
from tapir.data.files import write_json
from tapir.data.run.reader import RunReader
from tapir.data.run.store import RunStore
from tapir.domain.errors import DataError
from tapir.models.local.loading import ADAPTER, MODEL_DEFAULTS, ModelSettings, base_of
from tapir.report.export.cards import facts, write_card
from tapir.report.export.folder import Mark, draft_folder
from tapir.training.model import merge

_MODEL_FILES = re.compile(
    r".*\.(safetensors|safetensors\.index\.json|model|tiktoken|py)|(tokenizer|vocab|chat_template).*|merges\.txt"
    rf"|(generation_)?config\.json|(special_tokens_map|added_tokens)\.json|{re.escape(ADAPTER)}"
)


def export_model(
    store: RunStore,
    out: Path,
    number: int | None = None,
    *,
    adapter: bool = False,
    settings: ModelSettings = MODEL_DEFAULTS,
) -> list[str]:
    """Write the student of a round, or the last, with its tokenizer and a model card; return remarks.

    A LoRA adapter is merged into its base, which is loaded by `settings`, or left as it is.
    """
    run = RunReader(store)
    why = " (S_0 is the student as it came: without a warm-up the run made none)" if number == 0 else ""
    last = run.choose(run.trained_rounds(), number, f"trained student{why}")[-1]
    student = run.store.round(last) / "checkpoint"
    if adapter and base_of(str(student)) is None:
        raise DataError(
            f"S_{last} was trained in full: there is no adapter",
            remedy="Leave --adapter out: export the model.",
        )
    plan = parse(without_idle(run.recipe)).curriculum
    seen = range(1, last + 1)[-1 if plan.continue_from == "warm-up" else 0 :]
    card = facts(run, last, seen)
    with draft_folder(out, Mark.of(run, "model", [last])) as draft:
        if adapter:
            shutil.copytree(student, draft)
        else:
            _write_model(student, draft, settings)
        _tidy(draft)
        base = card["base"]
        path = base.name if base.hub else f"path/to/{base.name}"
        write_card(draft, "model-card.md.j2", f=card, title=out.name, adapter=adapter, base=path)
    notes = [f"S_{last} of {card['name']}{', as an adapter' if adapter else ''}"]
    if not base.hub and base.name != "nano":
        notes.append(f"its base {base.name} lies on this machine: others cannot find it by that name")
    return [*notes, "no licence is chosen: read the card's last part but one before you publish"]


def _write_model(student: Path, draft: Path, settings: ModelSettings) -> None:
    """Write a whole model in safetensors with a generation config, whatever the trainer left."""
    merge(student, draft, settings)
    if not any(draft.glob("*.safetensors")):
        from transformers import AutoModelForCausalLM

        AutoModelForCausalLM.from_pretrained(str(draft), dtype="auto").save_pretrained(str(draft))
    if not (draft / "generation_config.json").exists():
        from transformers import AutoConfig, GenerationConfig

        GenerationConfig.from_model_config(AutoConfig.from_pretrained(str(draft))).save_pretrained(str(draft))


def _tidy(draft: Path) -> None:
    """Delete what is not part of the model, and paths of this machine from its configs."""
    for path in list(draft.iterdir()):
        if path.is_dir() and path.name != "additional_chat_templates":
            shutil.rmtree(path)
        elif path.is_file() and not _MODEL_FILES.fullmatch(path.name):
            path.unlink()
    for path in draft.glob("*config.json"):
        content = json.loads(path.read_text("utf-8"))
        paths = {key: value for key, value in content.items() if isinstance(value, str) and Path(value).is_absolute()}
        names = {key: Path(value).name for key, value in paths.items() if "\n" not in value}  # a chat template has one
        if names:
            write_json(path, content | names)
