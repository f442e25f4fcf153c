"""Encoders as transformers keeps them: found, checked, and their labels matched to the taxonomy's."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tapir.errors import MissingExtra, RoleError
from tapir.store.files import full

_GENERIC = re.compile(r"(?:label_)?(\d+)")
_NO_SENTENCEPIECE = "`tiktoken` is required"  # what transformers says where it has no library for an spm.model
_OTHER = "Set tagger.model to a folder or hub id with an encoder that transformers can load, as in {}."
_EXAMPLES = '"answerdotai/ModernBERT-base" or "microsoft/deberta-v3-base"'


@dataclass(frozen=True, slots=True)
class Source:
    """Where a model is: a folder, or a hub id with its revision (empty: the newest)."""

    model: str
    revision: str = ""


def to_train(source: Source, labels: Sequence[str], seed: int) -> tuple[Any, Any]:
    """Model and tokenizer with a new head for `labels`, its weights drawn from `seed`; in float32.

    Raises:
        RoleError: there is no such encoder.
    """
    from transformers import set_seed

    set_seed(seed)
    return _load(
        source,
        id2label=dict(enumerate(labels)),
        label2id={label: number for number, label in enumerate(labels)},
        problem_type="single_label_classification",
        ignore_mismatched_sizes=True,
    )[:2]


def trained(source: Source) -> tuple[Any, Any]:
    """Model and tokenizer of a finished classifier, in float32.

    Raises:
        RoleError: there is none, or it has no head.
    """
    model, tokenizer, missing = _load(source)
    if missing:
        raise RoleError(
            f"{source.model} is no classifier: {', '.join(sorted(missing)[:4])} are not in it",
            remedy="Set tagger.model to a trained classifier, or set tagger.labelled so that one is trained.",
        )
    return model, tokenizer


def named(names: Mapping[int, str], labels: Sequence[str], model: str) -> list[str]:
    """The taxonomy's label for each number that a classifier gives.

    Names match but for case and white space. A classifier that only numbers its labels (LABEL_0, LABEL_1, ...) has
    the taxonomy's own order, which for the paper's taxonomy is the published one.

    Raises:
        RoleError: its labels are not those of the taxonomy.
    """
    plain = {number: _plain(name) for number, name in names.items()}
    if all((found := _GENERIC.fullmatch(name)) and int(found[1]) == number for number, name in plain.items()):
        if sorted(names) != list(range(len(labels))):
            raise _mismatch(model, f"it has {len(names)} labels without names, the taxonomy has {len(labels)}")
        return list(labels)
    known = {_plain(label): label for label in labels}
    foreign = [name for number, name in sorted(names.items()) if plain[number] not in known]
    absent = [label for name, label in known.items() if name not in plain.values()]
    if foreign or absent or len(names) != len(labels):
        only = (("only in the model", foreign), ("only in the taxonomy", absent))
        differ = "; ".join(f"{where}: {', '.join(several)}" for where, several in only if several)
        raise _mismatch(model, differ or f"it has {len(names)} labels, the taxonomy has {len(labels)}")
    return [known[plain[number]] for number in range(len(names))]


def _load(source: Source, **head: Any) -> tuple[Any, Any, set[str]]:
    """Model, tokenizer, and the names of weights that are not in the files."""
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

    revision = {"revision": source.revision} if source.revision else {}
    with _loading(source):
        AutoConfig.from_pretrained(source.model, **revision)  # its errors say best what is missing
        tokenizer = AutoTokenizer.from_pretrained(source.model, **revision)
        model, found = AutoModelForSequenceClassification.from_pretrained(
            source.model,
            dtype=torch.float32,  # some encoders are kept in float16, in which they cannot be trained
            output_loading_info=True,
            **revision,
            **head,
        )
    if tokenizer.pad_token_id is None or not tokenizer.get_vocab().keys() - set(tokenizer.all_special_tokens):
        lacks = "padding token" if tokenizer.pad_token_id is None else "vocabulary"
        raise RoleError(
            f"the tokenizer of {source.model} has no {lacks}",
            remedy="Put the tokenizer's own files beside the model, or choose another tagger.model.",
        )
    return model, tokenizer, set(found["missing_keys"])


@contextmanager
def _loading(source: Source) -> Iterator[None]:
    """Say which key of the recipe names what cannot be loaded; a download may also fill the disk."""
    from safetensors import SafetensorError

    revision = f" at {source.revision}" if source.revision else ""
    try:
        yield
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        text = str(error)
        if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise full(Path(error.filename or source.model)) from error
        if _NO_SENTENCEPIECE in text and find_spec("sentencepiece") is None:
            raise MissingExtra(
                f"the tokenizer of {source.model} is a SentencePiece model, and sentencepiece is not installed",
                remedy="pip install sentencepiece",
            ) from error
        raise RoleError(
            f"no encoder can be loaded from {source.model}{revision}: {text}",
            remedy=f"{_OTHER.format(_EXAMPLES)} Without a network it must be in the hub's cache, or be a folder.",
        ) from error


def _plain(name: str) -> str:
    return "".join(name.casefold().split())


def _mismatch(model: str, why: str) -> RoleError:
    return RoleError(
        f"the labels of {model} are not those of the taxonomy; {why}",
        remedy="Set curriculum.taxonomy to the labels of the classifier, or set tagger.labelled so that one is "
        "trained on the labels of the taxonomy.",
    )
