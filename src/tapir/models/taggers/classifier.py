"""A text classifier, an encoder with a classification head: loading, fine-tuning, batches, calibration."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tapir.config.annotators import EmbeddingTaggerConfig, EncoderTaggerConfig
from tapir.data.files import full, is_disk_full
from tapir.domain.errors import RoleError
from tapir.domain.progress import Progress
from tapir.domain.task import TaskTag
from tapir.domain.training import check_loss
from tapir.models.local.loading import missing_sentencepiece
from tapir.models.memory import OutOfMemory, computes_in_bfloat16, free_memory
from tapir.models.taggers.metrics import most_probable

if TYPE_CHECKING:
    from transformers import PreTrainedModel, TrainerCallback

_WARMUP_SHARE = 0.1
_WEIGHT_DECAY = 0.01
_MULTIPLE = 8  # widths that an accelerator multiplies fast
_GENERIC_LABEL = re.compile(r"(?:label_)?(\d+)")
_check = partial(check_loss, rate="tagger.learning_rate", what="tagger's training")


class TextModel:
    """A model with its tokenizer, on the accelerator while it works: one row of numbers for each text."""

    def __init__(self, model: Any, tokenizer: Any, *, max_length: int, batch_size: int) -> None:
        check_length(model, tokenizer, max_length)
        self._model = model.eval()
        self._tokenizer = tokenizer
        self._max_length = max_length
        self._batch_size = batch_size
        self._halved = False

    def rows(self, texts: Sequence[str], note: Callable[[str], None]) -> NDArray[np.float64]:
        """Return one row for each text, of which there is at least one; the same texts give the same bits again.

        Tokens beyond `max_length` are not read. Where memory does not suffice, smaller batches are tried once, which
        is reported to `note`.
        """
        tokens = tokenize(self._tokenizer, texts, self._max_length)
        order = sorted(range(len(tokens)), key=lambda place: (len(tokens[place]), place))
        ordered = [tokens[place] for place in order]
        output = self._forward(ordered)
        if output is None and not self._halved and self._batch_size > 1:
            self._batch_size, self._halved = (self._batch_size + 1) // 2, True
            note(f"out of memory while tagging: from now on {self._batch_size} instructions at once")
            output = self._forward(ordered)
        if output is None:
            raise out_of_memory(self._batch_size)
        rows = np.empty(output.shape)
        rows[order] = output
        return rows

    def rest(self) -> None:
        """Leave the accelerator; the next text brings the model back."""
        self._model.to("cpu")
        free_memory()

    def _output(self, batch: Any) -> Any:
        """Return a tensor with a row for each text of a batch."""
        return self._model(**batch).logits

    def _forward(self, tokens: Sequence[Sequence[int]]) -> NDArray[np.float32] | None:
        """Compute rows in the order of `tokens`; None where memory does not suffice."""
        import torch

        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        collate, output = collator(self._tokenizer), []
        with OutOfMemory():
            self._model.to(device)
            with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=computes_in_bfloat16()):
                for start in range(0, len(tokens), self._batch_size):
                    batch = collate([{"input_ids": ids} for ids in tokens[start : start + self._batch_size]])
                    output.append(self._output(batch.to(device)))
            rows: NDArray[np.float32] = torch.cat(output).float().cpu().numpy()
            return rows
        output.clear()
        free_memory()
        return None


class Classifier(TextModel):
    """A model whose rows are logits, with a label for each column, and the temperature that calibrates them."""

    def __init__(self, model: Any, tokenizer: Any, labels: Sequence[str], *, max_length: int, batch_size: int) -> None:
        super().__init__(model, tokenizer, max_length=max_length, batch_size=batch_size)
        self.labels = labels
        self.temperature = 1.0

    def predict(self, logits: NDArray[np.float64]) -> list[TaskTag]:
        """Return the most probable label of each row with its calibrated probability."""
        return most_probable(logits / self.temperature, self.labels)


def tokenize(tokenizer: Any, texts: Sequence[str], max_length: int) -> list[list[int]]:
    """Return the token ids of each text, with the model's own marks at both ends, at most `max_length`."""
    return list(tokenizer(list(texts), truncation=True, max_length=max_length)["input_ids"])


def collator(tokenizer: Any) -> Any:
    """Return what pads token ids (and labels) to one batch."""
    import torch
    from transformers import DataCollatorWithPadding

    multiple = _MULTIPLE if torch.cuda.is_available() else None
    return DataCollatorWithPadding(tokenizer, pad_to_multiple_of=multiple)


def check_length(model: Any, tokenizer: Any, max_length: int) -> None:
    """Raise `RoleError` unless a model can read so many tokens."""
    longest = min(tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", None) or max_length)
    if max_length > longest:
        raise RoleError(
            f"tagger.max_length = {max_length}, but {model.name_or_path} reads {longest} tokens at most",
            remedy=f"Set tagger.max_length to {longest} or less.",
        )


def out_of_memory(batch_size: int) -> RoleError:
    """Return the error where smaller batches do not fit either."""
    return RoleError(
        f"the tagger runs out of memory with {batch_size} instructions at once",
        remedy="Lower tagger.batch_size or tagger.max_length, or choose a smaller tagger.model.",
    )


def load_classifier(name: str, revision: str = "") -> tuple[Any, Any]:
    """Load model and tokenizer of a finished classifier, in float32."""
    model, tokenizer, missing = _load(name, revision)
    if missing:
        raise RoleError(
            f"{name} is no classifier: {', '.join(sorted(missing)[:4])} are not in it",
            remedy="Set tagger.model to a trained classifier, or set tagger.labelled so that one is trained.",
        )
    return model, tokenizer


def load_encoder(section: EncoderTaggerConfig | EmbeddingTaggerConfig) -> tuple[Any, Any]:
    """Load model and tokenizer of an encoder as it is, without a head, in float32."""
    model, tokenizer, missing = _load(section.model, section.revision, bare=True)
    if absent := sorted(weight for weight in missing if "pooler" not in weight):  # a head that nothing here reads
        raise cannot_load(section.model, section.revision, ValueError(f"{', '.join(absent[:4])} are not in it"))
    check_length(model, tokenizer, section.max_length)
    return model, tokenizer


def _load(name: str, revision: str, *, bare: bool = False, **head: Any) -> tuple[Any, Any, set[str]]:
    """Return model, tokenizer, and the names of weights that are not in the files."""
    import torch
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # the run has a progress display of its own
    name, options = str(Path(name).expanduser()), {"revision": revision} if revision else {}
    if Path(name).is_absolute() and not Path(name).is_dir():
        raise cannot_load(name, revision, FileNotFoundError("there is no such folder"))
    kind = AutoModel if bare else AutoModelForSequenceClassification
    try:
        AutoConfig.from_pretrained(name, **options)  # its errors say best what is missing
        tokenizer = AutoTokenizer.from_pretrained(name, **options)
        model, info = kind.from_pretrained(
            name,
            dtype=torch.float32,  # some encoders are kept in float16, in which they cannot be trained
            output_loading_info=True,
            **options,
            **head,
        )
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        raise cannot_load(name, revision, error) from error
    if tokenizer.pad_token_id is None or not tokenizer.get_vocab().keys() - set(tokenizer.all_special_tokens):
        lacks = "padding token" if tokenizer.pad_token_id is None else "vocabulary"
        raise RoleError(
            f"the tokenizer of {name} has no {lacks}",
            remedy="Put the tokenizer's own files beside the model, or choose another tagger.model.",
        )
    return model, tokenizer, set(info["missing_keys"])


def cannot_load(name: str, revision: str, error: Exception) -> Exception:
    """Return an error that says which key of the recipe names what cannot be loaded; a download may fill the disk."""
    if is_disk_full(error):
        return full(Path(getattr(error, "filename", None) or name))
    return missing_sentencepiece(name, error) or RoleError(
        f"no encoder can be loaded from {name}{f' at {revision}' if revision else ''}: {error}",
        remedy="Set tagger.model to a folder or hub id with an encoder that transformers can load, as in"
        ' "answerdotai/ModernBERT-base" or "microsoft/deberta-v3-base". Without a network it must be in the hub\'s'
        " cache, or be a folder.",
    )


def finetune(
    section: EncoderTaggerConfig,
    labels: Sequence[str],
    examples: Sequence[tuple[str, str]],
    seed: int,
    progress: Progress,
) -> tuple[Any, Any]:
    """Train on (text, label) examples and return model and tokenizer; the same for the same seed on the same machine.

    The seed is that of the new head's weights, the order, and dropout. Where memory does not suffice, batches are
    halved once: two of them then make one step.
    """
    from transformers import set_seed

    number_of = {label: number for number, label in enumerate(labels)}
    head: dict[str, Any] = {"id2label": dict(enumerate(labels)), "label2id": number_of}
    head["problem_type"] = "single_label_classification"
    half = (section.batch_size + 1) // 2
    for accumulate in (1, 2) if section.batch_size > 1 else (1,):
        if accumulate > 1:
            progress.note(f"out of memory while the tagger learns: tried again with {half} instructions at once")
        set_seed(seed)  # the weights of the new head are drawn
        model, tokenizer, _ = _load(section.model, section.revision, **head, ignore_mismatched_sizes=True)
        check_length(model, tokenizer, section.max_length)
        tokens = tokenize(tokenizer, [text for text, _ in examples], section.max_length)
        rows = [{"input_ids": ids, "label": number_of[label]} for ids, (_, label) in zip(tokens, examples, strict=True)]
        steps = math.ceil(-(-len(rows) // section.batch_size) * section.epochs)
        progress.start(0, "fit", steps)
        trained = None
        with OutOfMemory(), TemporaryDirectory() as folder:
            arguments = _arguments(section, folder, seed, steps, accumulate)
            trained = _train(model, arguments, rows, collator(tokenizer), progress)
        progress.finish()
        del model
        free_memory()
        if trained:
            return trained, tokenizer
    raise out_of_memory(half)


def _train(
    model: Any, arguments: Any, rows: Sequence[Mapping[str, Any]], collate: Any, progress: Progress
) -> PreTrainedModel:
    """Return the trained model; the trainer, which holds model and optimizer, ends with this call however it ends."""
    from transformers import PrinterCallback, Trainer

    options = {"train_dataset": rows, "data_collator": collate, "callbacks": [_callback(progress)]}
    trainer: Trainer = Trainer(model=model, args=arguments, **options)
    trainer.remove_callback(PrinterCallback)
    result = trainer.train()
    progress.check()
    _check(result.training_loss, trainer.state.global_step)
    return trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)


def _arguments(section: EncoderTaggerConfig, folder: str, seed: int, steps: int, accumulate: int) -> Any:
    import torch
    from transformers import TrainingArguments

    arguments = TrainingArguments(
        output_dir=folder,
        num_train_epochs=section.epochs,
        per_device_train_batch_size=-(-section.batch_size // accumulate),
        gradient_accumulation_steps=accumulate,
        learning_rate=section.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=round(_WARMUP_SHARE * steps),
        weight_decay=_WEIGHT_DECAY,
        train_sampling_strategy="group_by_length",
        save_strategy="no",
        logging_steps=max(1, steps // 50),
        logging_nan_inf_filter=False,
        report_to="none",
        remove_unused_columns=False,
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
        bf16=computes_in_bfloat16(),
        dataloader_pin_memory=False,
        seed=seed,
    )
    arguments._n_gpu = min(1, arguments.n_gpu)  # noqa: SLF001  # several would multiply the batch by their number
    return arguments


def _callback(progress: Progress) -> TrainerCallback:
    """Return a callback that reports every step, stops on request, and refuses a loss that is not a number."""
    from transformers import TrainerCallback

    class FineTuneCallback(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, _arguments: Any, _state: Any, control: Any, **_: Any) -> None:
            progress.advance()
            control.should_training_stop = control.should_training_stop or progress.stopping

        def on_log(
            self, _arguments: Any, state: Any, _control: Any, logs: dict[str, float] | None = None, **_: Any
        ) -> None:
            loss = (logs or {}).get("loss")
            if loss is None:
                return
            _check(loss, state.global_step)
            progress.measure(loss=loss)

    return FineTuneCallback()


def match_labels(names: Mapping[int, str], labels: Sequence[str], model: str) -> list[str]:
    """Return the taxonomy's label for each number that a classifier gives.

    Names match but for case and white space. A classifier that only numbers its labels (LABEL_0, LABEL_1, ...) has
    the taxonomy's own order, which for the paper's taxonomy is the published one.
    """
    plain = {number: _plain(name) for number, name in names.items()}
    if all((match := _GENERIC_LABEL.fullmatch(name)) and int(match[1]) == number for number, name in plain.items()):
        if sorted(names) == list(range(len(labels))):
            return list(labels)
        raise _mismatch(model, f"it has {len(names)} labels without names, the taxonomy has {len(labels)}")
    known = {_plain(label): label for label in labels}
    foreign = [name for number, name in sorted(names.items()) if plain[number] not in known]
    absent = [label for name, label in known.items() if name not in plain.values()]
    if foreign or absent or len(names) != len(labels):
        only = (("only in the model", foreign), ("only in the taxonomy", absent))
        differ = "; ".join(f"{where}: {', '.join(several)}" for where, several in only if several)
        raise _mismatch(model, differ or f"it has {len(names)} labels, the taxonomy has {len(labels)}")
    return [known[plain[number]] for number in range(len(names))]


def _plain(name: str) -> str:
    return "".join(name.casefold().split())


def _mismatch(model: str, why: str) -> RoleError:
    return RoleError(
        f"the labels of {model} are not those of the taxonomy; {why}",
        remedy="Set curriculum.taxonomy to the labels of the classifier, or set tagger.labelled so that one is "
        "trained on the labels of the taxonomy.",
    )
