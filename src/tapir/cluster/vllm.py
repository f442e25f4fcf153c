"""A student that answers on many accelerators, each worker an engine of vLLM."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tapir.cluster.connection import RayCluster
from tapir.cluster.generating import Generating, RayVllmSettings
from tapir.cluster.student import everywhere
from tapir.domain.completion import Completion, Failure
from tapir.domain.instruction import Instruction
from tapir.domain.round import Checkpoint
from tapir.errors import RecipeError
from tapir.roles import Reply, Watch
from tapir.students.checkpoint import base_of
from tapir.students.load import AS_IT_IS, ModelSettings, load_tokenizer

_OWN = ("top_p", "top_k", "min_p", "repetition_penalty")  # settings of the model's own that hold beside ours


class RayVllmStudent:
    """Each worker is an engine of vLLM with its GPUs; adapters are loaded beside their base."""

    def __init__(self, cluster: RayCluster, settings: RayVllmSettings, model: ModelSettings = AS_IT_IS) -> None:
        """Take the cluster, how to answer, and how the model is read."""
        self._cluster = cluster
        self._settings = settings
        self._model = model

    def open(self, folder: Path, watch: Watch) -> None:
        """A session begins."""
        self._cluster.open(folder, watch)

    def rest(self) -> None:
        """Its engines ended with their work."""
        self._cluster.rest()

    def close(self) -> None:
        """The session ends."""
        self._cluster.close()

    def answer(self, checkpoint: Checkpoint, instructions: Sequence[Instruction]) -> Iterator[Reply]:
        """One reply for each instruction.

        Raises:
            RoleError: the cluster cannot be used, vLLM is not on it, or the checkpoint cannot be loaded.
            Interrupted: the user stopped.
        """
        for _, replies in self.answer_all(checkpoint, [instructions]):
            yield from replies

    def answer_all(
        self, checkpoint: Checkpoint, chunks: Iterable[Sequence[Instruction]]
    ) -> Iterator[tuple[int, Sequence[Reply]]]:
        """Place of a chunk and its replies, once all of them are there; raises what `answer` raises."""
        ids: list[list[str]] = []

        def taken() -> Iterator[list[Instruction]]:
            for chunk in chunks:
                ids.append([one.id for one in chunk])
                yield list(chunk)

        owed: dict[int, dict[int, Completion | Failure]] = {}
        for place, (turn, reply) in self._cluster.map(self._flow(checkpoint), taken()):
            found = owed.setdefault(place, {})
            found[turn] = reply
            if len(found) == len(ids[place]):
                del owed[place]
                yield place, [(name, found[number]) for number, name in enumerate(ids[place])]
        yield from ((place, []) for place, names in enumerate(ids) if not names)

    def _flow(self, checkpoint: Checkpoint) -> Generating:
        there = everywhere(checkpoint)
        own = _generation(base_of(there.path) or there.path, self._model.revision)
        named = own.get("eos_token_id")
        ends = [load_tokenizer(there, self._model).eos_token_id, *(named if isinstance(named, list) else [named])]
        settings = {name: own[name] for name in _OWN if own.get(name) is not None}
        return Generating(
            there, self._settings, self._model, frozenset(int(one) for one in ends if one is not None), settings
        )


def engine_arguments(options: Sequence[str]) -> dict[str, Any]:
    """The options of a vLLM server as arguments of its engine: `--max-model-len 4096` is `max_model_len = 4096`.

    Raises:
        RecipeError: they are no options.
    """
    found: dict[str, Any] = {}
    name = ""
    for part in options:
        if part.startswith("--"):
            name, given, value = part[2:].partition("=")
            name = name.replace("-", "_")
            if not given and name.startswith("no_"):
                found[name[3:]] = False
            else:
                found[name] = _value(value) if given else True
        elif name:
            found[name] = _value(part)
            name = ""
        else:
            raise RecipeError(
                f"student.options: {part!r} belongs to no option",
                remedy='Write each option with its value, as in ["--max-model-len", "4096"].',
            )
    return found


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _generation(model: str, revision: str) -> dict[str, Any]:
    """What the model's own generation settings say; nothing where it brings none."""
    from transformers import GenerationConfig

    try:
        found: dict[str, Any] = GenerationConfig.from_pretrained(model, revision=revision or "main").to_diff_dict()
    except OSError:
        return {}
    return found
