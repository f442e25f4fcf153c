"""Loading a checkpoint: weights, adapters, tokenizer and chat template."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tapir.config.student import StudentSection
from tapir.domain.errors import MissingExtra, RecipeError, RoleError, TapirError
from tapir.domain.progress import Progress
from tapir.domain.round import Checkpoint
from tapir.models.local.template import check_template, template_arguments
from tapir.models.memory import computes_in_bfloat16, cpu_computes_in_bfloat16, free_memory, is_out_of_memory

ADAPTER = "adapter_config.json"
"""The file that tells an adapter from a whole model."""

_HUB_TIMEOUT = 10.0  # seconds for the hub to say anything; transformers itself would try for a minute, for every file
_LARGE = 100_000_000  # parameters


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """How a student is loaded.

    "auto" is bfloat16 on a CUDA device that computes in it and float16 on any other accelerator; on the CPU see
    `large_on_bfloat16_cpu`, else float32.
    """

    dtype: str = "auto"  # or "float32", "bfloat16", "float16"
    chat_template: str = ""  # Jinja text that takes the place of the tokenizer's own; empty keeps that
    revision: str = ""  # of a model on a hub; empty means the newest
    template: Mapping[str, Any] = field(default_factory=dict, hash=False)  # arguments of the chat template
    thinks: bool = False  # before it answers
    date: str = ""  # that a template gets which asks for one, as in "2026-11-30"; empty means today

    @classmethod
    def of(cls, student: StudentSection) -> ModelSettings:
        """Return the settings of a student's section."""
        return cls(
            student.dtype,
            chat_template(student.chat_template),
            student.revision,
            student.template,
            student.thinking != "off",
            student.date,
        )

    def arguments(self, template: str) -> dict[str, Any]:
        """Return the arguments that every call of a template gets."""
        return template_arguments(template, self.template, thinks=self.thinks, date=self.date)


MODEL_DEFAULTS = ModelSettings()


def chat_template(name: str) -> str:
    """Return the Jinja text of a shipped template ("alpaca") or a file; empty for empty, the model's own."""
    if not name:
        return ""
    folder = resources.files("tapir.recipes") / "templates"
    shipped = sorted(file.name.removesuffix(".jinja") for file in folder.iterdir())
    if name in shipped:
        return (folder / f"{name}.jinja").read_text("utf-8")
    try:
        return Path(name).expanduser().read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(
            f"student.chat_template = {name!r} is neither a shipped template ({', '.join(shipped)}) nor a readable "
            f"file: {error}",
            remedy="Name a shipped template or a file with a Jinja template; leave it empty to use the model's own.",
        ) from error


def base_of(path: str) -> str | None:
    """Return the model that an adapter was trained on, as it was named in training; None for a whole model."""
    file = Path(path) / ADAPTER
    if not file.is_file():
        return None
    try:
        return str(json.loads(file.read_text("utf-8"))["base_model_name_or_path"])
    except (OSError, ValueError, LookupError) as error:
        raise RoleError(
            f"{file} does not name the model it belongs to: {error}",
            remedy="Delete the checkpoint's folder; `tapir resume` trains it again.",
        ) from error


def adapter_rank(path: str) -> int:
    """Return the largest rank of an adapter's matrices, as vLLM reads it."""
    try:
        config = json.loads((Path(path) / ADAPTER).read_text("utf-8"))
        return max(int(config["r"]), *map(int, (config.get("rank_pattern") or {}).values()), 1)
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise RoleError(
            f"{path} is an adapter that vLLM cannot load: {error!r}",
            remedy='Use LoRA (training.method = "lora" or "qlora"), or student.kind = "transformers".',
        ) from error


def locate_model(name: str, revision: str = "") -> str:
    """Return the model as `from_pretrained` can load it now: a folder, or its id on a hub that answers."""
    if Path(name).is_dir():
        return name
    if Path(name).is_absolute():
        raise RoleError(
            f"no student can be loaded from {name}: there is no such folder",
            remedy="Restore it. If a GGUF file was converted into it, `tapir check` with that recipe does so again.",
        )
    if _is_on_hub(name):
        return name
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    configs = ["config.json", ADAPTER]  # only some files of a model are ever downloaded
    try:
        return snapshot_download(name, revision=revision or None, allow_patterns=configs, local_files_only=True)
    except LocalEntryNotFoundError as error:
        raise RoleError(
            f"student.model = {name} is no folder, was not downloaded before, and the hub cannot be reached",
            remedy=f"Correct student.model, or download it where there is a network: `hf download {name}`.",
        ) from error


def _is_on_hub(name: str) -> bool:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
    from huggingface_hub.errors import HTTPError as NetworkError  # type: ignore[attr-defined]  # whatever client it has

    try:
        with suppress(HfHubHTTPError, HFValidationError):  # reported when the files are requested
            HfApi().model_info(name, timeout=_HUB_TIMEOUT)
    except (NetworkError, OfflineModeIsEnabled):
        return False
    return True


def large_on_bfloat16_cpu(path: str, settings: ModelSettings) -> bool:
    """Return whether the processor computes in bfloat16 and the model has 100 million parameters or more.

    At 135 million bfloat16 trains 1.6 times and answers 2.2 times as many tokens in a second (lab/LOG.md). Smaller
    models gain less, and the built-in student's figures are those of float32.
    """
    try:
        return cpu_computes_in_bfloat16() and empty_model(path, settings).num_parameters() >= _LARGE
    except RoleError:  # said where the model is loaded
        return False


def load(checkpoint: Checkpoint, settings: ModelSettings = MODEL_DEFAULTS) -> tuple[Any, Any]:
    """Load model and tokenizer of a checkpoint, ready to answer, on the best device there is.

    An adapter is merged into its base, in memory: one model of the base's size, as fast as the base.
    """
    import torch

    tokenizer = load_tokenizer(checkpoint, settings)
    mps = torch.backends.mps.is_available()
    device = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    dtype = getattr(torch, settings.dtype, torch.float32)
    if settings.dtype == "auto" and device != "cpu":
        dtype = torch.bfloat16 if computes_in_bfloat16() else torch.float16
    elif settings.dtype == "auto" and large_on_bfloat16_cpu(checkpoint.path, settings):
        dtype = torch.bfloat16
    with memory_errors(checkpoint.path, device):
        return load_model(checkpoint.path, settings, whole=True, dtype=dtype, device_map=device).eval(), tokenizer


class LoadedCheckpoint:
    """What answers or reads with one checkpoint at a time, which it holds until it rests."""

    def __init__(self, model: ModelSettings) -> None:
        self.model = model
        self._loaded: tuple[str, Any, Any] | None = None

    def load(self, checkpoint: Checkpoint) -> tuple[Any, Any]:
        """Return model and tokenizer of a checkpoint; another one is dropped before: two might not fit."""
        if self._loaded is None or self._loaded[0] != checkpoint.path:
            self.rest()
            self._loaded = (checkpoint.path, *load(checkpoint, self.model))
        return self._loaded[1], self._loaded[2]

    def open(self, folder: Path, progress: Progress) -> None:
        """Begin a session; nothing is loaded yet."""

    def rest(self) -> None:
        """Drop the model and give the accelerator's memory back."""
        if self._loaded is not None:
            self._loaded = None
            free_memory()

    def close(self) -> None:
        """End the session."""
        self.rest()


@contextmanager
def memory_errors(path: str, device: str) -> Iterator[None]:
    """Raise `RoleError` where memory runs out while a checkpoint is loaded, or its adapter merged."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise RoleError(
            f"{path} does not fit the memory of the device ({device}): {type(error).__name__}: {error}",
            remedy="Free the device, set student.dtype to bfloat16 or float16, or choose a smaller student.model; to"
            " write a merged model takes 4 bytes for each of its weights.",
        ) from error


def load_tokenizer(checkpoint: Checkpoint, settings: ModelSettings = MODEL_DEFAULTS) -> Any:
    """Load the tokenizer of a checkpoint, with a padding token and a chat template that was tried."""
    from transformers import AutoTokenizer

    path = locate_model(checkpoint.path, settings.revision)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, revision=settings.revision or "main")
    except (OSError, ValueError) as error:
        raise load_error(checkpoint.path, error) from error
    if settings.chat_template:
        tokenizer.chat_template = settings.chat_template
    if (own := tokenizer.chat_template) == "":
        raise load_error(checkpoint.path, ValueError("its chat template is an empty file"))
    if template := own.get("default") if isinstance(own, dict) else own:  # some have others beside it, for tools
        tokenizer.apply_chat_template = partial(tokenizer.apply_chat_template, **settings.arguments(template))
    check_template(tokenizer, checkpoint.path, thinks=settings.thinks)
    config = None if base_of(path) else _load_config(path, settings)  # an adapter's tokenizer is that of its base
    rows = config and getattr(config.get_text_config(), "vocab_size", None)
    if tokenizer.pad_token_id is None or (rows and tokenizer.pad_token_id >= rows):  # added, and has no embedding
        if tokenizer.eos_token_id is None:
            raise RoleError(
                f"the tokenizer of {checkpoint.path} has neither a padding token nor an end token",
                remedy='Name the token that ends an answer in its tokenizer_config.json, e.g. "eos_token": "</s>".',
            )
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_generation_config(path: str, revision: str = "") -> Any:
    """Load the generation config in a model's folder or on the hub; None where it brings none."""
    from transformers import GenerationConfig

    try:
        return GenerationConfig.from_pretrained(locate_model(path, revision), revision=revision or "main")
    except OSError:
        return None


def end_tokens(tokenizer: Any, generation_config: Any) -> frozenset[int]:
    """Return the ids of the tokens that end an answer: the tokenizer's, and all that the generation config names."""
    ids = getattr(generation_config, "eos_token_id", None)
    several = ids if isinstance(ids, list) else [ids]
    return frozenset(int(end) for end in [tokenizer.eos_token_id, *several] if end is not None)


def load_model(name: str, settings: ModelSettings, *, whole: bool = False, **arguments: Any) -> Any:
    """Load a model, from a folder or the hub; an adapter comes merged into its base. `whole`: no weight may lack."""
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    path, revision = locate_model(name, settings.revision), settings.revision or "main"
    if base := base_of(path):
        return load_adapter(load_model(base, settings, whole=whole, **arguments), path).merge_and_unload()
    disable_progress_bar()  # the run has a progress display of its own
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            path, revision=revision, output_loading_info=True, **arguments
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise load_error(path, error) from error
    if whole and info["missing_keys"]:
        raise load_error(path, ValueError(f"it lacks the weights {', '.join(sorted(info['missing_keys']))}"))
    _complete_sampling(model.generation_config)
    return model


def _complete_sampling(config: Any) -> None:
    """Turn sampling on where a generation config sets it up and leaves it off (Vicuna): that cannot be saved."""
    try:
        config.validate(strict=True)
    except ValueError as error:
        config.do_sample = config.do_sample or "`do_sample` is not set" in str(error)


def empty_model(name: str, settings: ModelSettings) -> Any:
    """Return a model without its weights, from its config alone; of an adapter, its base."""
    import torch
    from transformers import AutoModelForCausalLM

    config = _load_config(name, settings)
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config)
    except (OSError, ValueError) as error:
        raise load_error(name, error) from error


def most_tokens(name: str, settings: ModelSettings) -> float:
    """Return how many tokens a model can read, by its config; infinity where that names no limit."""
    return position_limit(_load_config(name, settings)) or math.inf


def position_limit(config: Any) -> int | None:
    """Return how many positions a loaded config names; None where it names none."""
    limit: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
    return limit


def _load_config(name: str, settings: ModelSettings) -> Any:
    from transformers import AutoConfig

    path = locate_model(name, settings.revision)
    if base := base_of(path):
        return _load_config(base, settings)
    try:
        return AutoConfig.from_pretrained(path, revision=settings.revision or "main")
    except (OSError, ValueError) as error:
        raise load_error(path, error) from error


def load_adapter(model: Any, path: str, *, trained: bool = False) -> Any:
    """Put the adapter of a checkpoint on its base."""
    from peft import PeftModel
    from safetensors import SafetensorError

    try:
        with ignore_deprecation():
            return PeftModel.from_pretrained(model, path, is_trainable=trained)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        if is_out_of_memory(error):
            raise
        raise load_error(path, error) from error


@contextmanager
def ignore_deprecation() -> Iterator[None]:
    """Ignore warnings about properties that peft calls by the names they had before transformers 5.23."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`.*gradient_checkpointing.*` is deprecated", FutureWarning)
        yield


def missing_sentencepiece(name: str, error: Exception) -> MissingExtra | None:
    """Return the error of a tokenizer that wants a library which transformers does not name; None for another."""
    if "`tiktoken` is required" not in str(error) or find_spec("sentencepiece"):
        return None
    return MissingExtra(
        f"the tokenizer of {name} is a SentencePiece model, and sentencepiece is not installed",
        remedy="pip install sentencepiece",
    )


def load_error(path: str, error: Exception) -> TapirError:
    """Return the error of a model or adapter that cannot be loaded."""
    base = base_of(path)
    adapter = f" (an adapter of {base})" if base else ""
    return missing_sentencepiece(path, error) or RoleError(
        f"no student can be loaded from {path}{adapter}: {error}",
        remedy="Set student.model to a folder or hub id that transformers can load; a checkpoint of a run that is "
        "damaged can be deleted, `tapir resume` trains it again.",
    )
