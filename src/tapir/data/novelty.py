"""Whether a text is new: equal or nearly equal to nothing known (METHOD 4.9)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from tapir.data.neighbours import Neighbours
from tapir.domain.instruction import normalised


@dataclass(frozen=True, slots=True)
class Known:
    """The text that a new one repeats.

    Attributes:
        name: its id.
        near: how it is alike, e.g. "rouge-l 0.83"; empty where the texts are equal but for case and white space.
    """

    name: str
    near: str = ""


@dataclass(slots=True)
class Novelty:
    """A growing collection of known texts.

    Attributes:
        neighbours: also looks for near-duplicates; None looks for equal texts only.
    """

    neighbours: Neighbours | None = None
    _names: dict[str, str] = field(default_factory=dict)

    def learn(self, name: str, text: str) -> None:
        """From now on this text is known, by the first name it was learnt under."""
        key = normalised(text)
        if key in self._names:
            return
        self._names[key] = name
        if self.neighbours:
            self.neighbours.add(name, text)

    def learn_all(self, texts: Iterable[tuple[str, str]]) -> None:
        """From now on these texts, (name, text), are known."""
        for name, text in texts:
            self.learn(name, text)

    def find(self, text: str) -> Known | None:
        """What the text repeats, if anything."""
        equal = self._names.get(normalised(text))
        if equal is not None:
            return Known(equal)
        near = self.neighbours.nearest(text) if self.neighbours else None
        return Known(near.name, f"{near.measure} {near.similarity:.2f}") if near else None
