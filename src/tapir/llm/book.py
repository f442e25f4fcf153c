"""The prompts of the roles that a language model fills: text files, checked when they are loaded."""

from __future__ import annotations

import difflib
import hashlib
import re
import tomllib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from tapir.errors import RecipeError
from tapir.llm.wire import Message

SLOTS: Mapping[str, frozenset[str]] = {
    "answer": frozenset({"instruction"}),
    "expand": frozenset({"task", "seeds", "wanted", "reply"}),
    "judge-pairwise": frozenset({"instruction", "answer_a", "answer_b", "rubric", "reply"}),
    "judge-repair": frozenset({"reason", "reply"}),
    "judge-single": frozenset({"instruction", "answer", "rubric", "reply"}),
    "prefer": frozenset({"instruction", "answer_a", "answer_b", "rubric", "reply"}),
    "reply-expand-json": frozenset(),
    "reply-expand-tagged": frozenset(),
    "reply-pairwise-json": frozenset(),
    "reply-pairwise-tagged": frozenset(),
    "reply-prefer-reasoned": frozenset(),
    "reply-prefer-short": frozenset(),
    "reply-single-json": frozenset(),
    "reply-single-tagged": frozenset(),
    "reply-tag-json": frozenset(),
    "reply-tag-tagged": frozenset(),
    "rubric-reference": frozenset({"reference"}),
    "rubric-turn": frozenset({"turn"}),
    "tag": frozenset({"labels", "instruction", "reply"}),
}
"""Every prompt but the style book, with the slots it must have and no others."""

REFINE_SLOTS = frozenset({"instruction", "answer", "task"})
"""The slots of every manner of the style book."""

MANNERS = "refine/manners"

TAGS = (
    *("instruction", "answer", "answer_a", "answer_b", "rubric", "example"),
    *("score", "score_a", "score_b", "label", "new_instruction"),
)
"""Names of the tags that hold quoted texts in our prompts and results in the replies to them."""

_HARMLESS = "\N{SINGLE LEFT-POINTING ANGLE QUOTATION MARK}"
_SLOT = re.compile(r"\{\{[ \t]*([^{}\n]*?)[ \t]*\}\}")
_HEADER = re.compile(r"^[ \t]*\[[ \t]*(?:system|user|assistant)[ \t]*\][ \t]*$", re.MULTILINE | re.IGNORECASE)
_HEADERS = ["[system]", "[user]"]
_SHIPPED = "shipped"
_ONE_MESSAGE = "judge-repair", "reply-", "rubric-"


def _tag(bracket: str) -> re.Pattern[str]:
    """The opening bracket of one of our tags.

    `a < score and b > c` is no tag: white space after the bracket is only allowed for where nothing but
    attributes with values follows the name. Runs are possessive, so that no text can make the search slow.
    """
    name = f"(?:{'|'.join(TAGS)})"
    value = rf"""(?:"[^"]*+"|'[^']*+'|[^\s"'<>{_HARMLESS}]++)"""
    return re.compile(
        rf"""{bracket}(?=
            \s*+ / \s*+ {name} (?![\w-])
          | {name} (?: \s++ [\w:.-]++ (?: \s*+ = \s*+ {value} )? )* \s*+ /? \s*+ >
          | \s++ {name} (?: \s++ [\w:.-]++ \s*+ = \s*+ {value} )* \s*+ /? \s*+ >
        )""",
        re.VERBOSE | re.IGNORECASE,
    )


_LIVE, _DEFUSED = _tag("<"), _tag(_HARMLESS)


def quoted(text: str) -> str:
    """Text from the corpus or a model, made safe to stand between our tags.

    The bracket that opens a tag named in `TAGS` becomes U+2039, so the text can neither end its quotation nor
    hold a result that a judge might echo. NUL is dropped, because servers that hand the prompt on as a C string
    end it there. All else stays as it is, and quoting twice is quoting once.
    """
    return _LIVE.sub(_HARMLESS, text.replace("\0", ""))


def restored(text: str) -> str:
    """What a model wrote from quoted text, with its tags as tags again.

    `<label>` is HTML before it is ours: a rewritten web form must not teach the student the bracket we put there.
    """
    return _DEFUSED.sub("<", text)


def seeds(texts: Sequence[str]) -> str:
    """The value of the slot `seeds`: each text quoted, in an `<example>` of its own."""
    return "\n\n".join(f"<example>\n{quoted(text)}\n</example>" for text in texts)


@dataclass(frozen=True, slots=True)
class PromptFile:
    """One prompt.

    Attributes:
        text: the file as it is, slots and headers included.
        digest: 16 hex digits of blake2b over the text.
        source: "shipped", or the path it was read from.
    """

    name: str
    text: str
    digest: str
    source: str

    def messages(self, **values: str) -> list[Message]:
        """The chat with every slot filled, in one pass: nothing inside a value is ever taken for a slot.

        Raises:
            TypeError: a slot has no value, or a value no slot.
        """
        self._check(values)
        return [Message(role=role, content=_filled(part, values)) for role, part in _parts(self.text)]

    def fill(self, **values: str) -> str:
        """The text of a prompt without a system part.

        Raises:
            TypeError: a slot has no value, a value no slot, or the prompt has a system part.
        """
        found = self.messages(**values)
        if len(found) > 1:
            raise TypeError(f"{self.name} has a system part: it is a chat, not a text")
        return found[0]["content"]

    def _check(self, values: Mapping[str, str]) -> None:
        slots = set(_SLOT.findall(self.text))
        if slots != values.keys():
            missing, unknown = sorted(slots - values.keys()), sorted(values.keys() - slots)
            raise TypeError(f"{self.name}: slots without a value {missing}, values without a slot {unknown}")


def load(name: str, override: Path | None = None) -> PromptFile:
    """Read a prompt and check it.

    Args:
        name: for example "judge-pairwise" or "refine/code".
        override: a file to read instead of the shipped one.

    Raises:
        RecipeError: there is no such prompt or file, it is empty, its headers are not in order, or its slots are not
            those of its name; every problem is named.
    """
    if name not in _shipped() and (override is None or not name.startswith("refine/")):
        raise RecipeError(
            f"no prompt named {name!r}{_hint(name, _shipped())}", remedy=f"There are {', '.join(_shipped())}."
        )
    found = _read(name, override)
    problems = [*_header_problems(found), *_slot_problems(found)]
    if problems:
        where = found.source if override else f"{name}.txt"
        raise RecipeError(
            "\n".join(f"{where}: {problem}" for problem in problems),
            remedy=f"Mend the file; docs/prompts.md tells what {name} must hold.",
        )
    return found


@dataclass(frozen=True, slots=True)
class Book:
    """Every prompt in use, and which manner each task is refined in.

    Attributes:
        prompts: by name; of the style book only the manners that some task has.
        manners: manner by task.
        default: the manner of every other task.
        manners_digest: of the file that says so.
    """

    prompts: Mapping[str, PromptFile]
    manners: Mapping[str, str]
    default: str
    manners_digest: str

    @classmethod
    def of(cls, overrides: Mapping[str, Path], labels: Collection[str] = ()) -> Book:
        """The shipped prompts with some of them replaced.

        Args:
            overrides: file by prompt name. "refine/manners" may name new manners where "refine/NAME" brings them.
            labels: of the taxonomy. Where given, a manners file of the user's may name no other task.

        Raises:
            RecipeError: a name is not in use, or a file is not what it must be.
        """
        file = _read(MANNERS, overrides.get(MANNERS))
        manners = _manners(file, {*_shipped(), *overrides})
        default = manners.pop("default")
        if labels and MANNERS in overrides:
            _check_tasks(file.source, manners, labels)
        names = sorted({*SLOTS, *(f"refine/{manner}" for manner in (default, *manners.values()))})
        for name in sorted(overrides.keys() - {*names, MANNERS}):
            raise RecipeError(
                f"prompts.{name}: no prompt of this name is in use{_hint(name, [*names, MANNERS])}",
                remedy=f"In use are {', '.join(names)} and {MANNERS}.",
            )
        prompts = {name: load(name, overrides.get(name)) for name in names}
        return cls(prompts, manners, default, file.digest)

    def __getitem__(self, name: str) -> PromptFile:
        return self.prompts[name]

    def manner(self, task: str) -> PromptFile:
        """The prompt that refines an answer to an instruction of this task."""
        return self.prompts[f"refine/{self.manners.get(task, self.default)}"]

    def digests(self) -> dict[str, str]:
        """Digest by name, for the manifest: equal digests, equal prompts."""
        return {name: file.digest for name, file in self.prompts.items()} | {MANNERS: self.manners_digest}


def _parts(text: str) -> list[tuple[str, str]]:
    """Role and template of each message, taken apart before any slot is filled."""
    headers = list(_HEADER.finditer(text))
    if not headers:
        return [("user", text.strip())]
    system, user = headers
    return [("system", text[system.end() : user.start()].strip()), ("user", text[user.end() :].strip())]


def _filled(template: str, values: Mapping[str, str]) -> str:
    return _SLOT.sub(lambda slot: values[slot[1]], template)


def _shipped() -> list[str]:
    folder = resources.files("tapir.llm") / "prompts"
    manners = [f"refine/{entry.name}" for entry in (folder / "refine").iterdir()]
    files = [entry.name for entry in folder.iterdir()]
    return sorted(name.removesuffix(".txt") for name in (*files, *manners) if name.endswith(".txt"))


def _read(name: str, override: Path | None) -> PromptFile:
    suffix = ".toml" if name == MANNERS else ".txt"
    try:
        if override is None:
            text = (resources.files("tapir.llm") / "prompts" / f"{name}{suffix}").read_text(encoding="utf-8")
        else:
            text = override.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(
            f"prompts.{name}: {override} cannot be read: {error}", remedy="Check the path; the file must be UTF-8."
        ) from error
    digest = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    return PromptFile(name, text, digest, _SHIPPED if override is None else str(override))


def _header_problems(file: PromptFile) -> Iterator[str]:
    found = list(_HEADER.finditer(file.text))
    lines = [header[0].strip() for header in found]
    if not file.text.strip():
        yield "the file is empty"
    elif not found:
        return
    elif lines != _HEADERS or file.text[: found[0].start()].strip():
        yield (
            f"header lines {', '.join(lines)}: a prompt has either none, or [system] as its first line and [user] once"
            " below it"
        )
    elif file.name.startswith(_ONE_MESSAGE):
        yield f"{file.name} becomes part of another message and cannot have [system] and [user]"
    else:
        yield from (f"nothing stands under [{role}]" for role, part in _parts(file.text) if not part)


def _slot_problems(file: PromptFile) -> Iterator[str]:
    slots, found = SLOTS.get(file.name, REFINE_SLOTS), set(_SLOT.findall(file.text))
    for slot in sorted(found - slots):
        yield f"no slot {{{{{slot}}}}} in {file.name}{_hint(slot, slots)}"
    for slot in sorted(slots - found):
        yield f"the slot {{{{{slot}}}}} is missing"


def _manners(file: PromptFile, available: Collection[str]) -> dict[str, str]:
    """Manner by task, "default" among them."""
    remedy = 'Each line is "TASK" = "MANNER", and one is default = "MANNER".'
    try:
        content = tomllib.loads(file.text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{MANNERS} ({file.source}) is not valid TOML: {error}", remedy=remedy) from error
    known = [name.removeprefix("refine/") for name in available if name.startswith("refine/") and name != MANNERS]
    if "default" not in content:
        raise RecipeError(f"{MANNERS} ({file.source}) has no default", remedy=remedy)
    for task, manner in content.items():
        if manner not in known:
            raise RecipeError(
                f"{MANNERS} ({file.source}): {task} = {manner!r}: no such manner{_hint(str(manner), known)}",
                remedy=f'Use one of {", ".join(sorted(known))}, or bring the file: "refine/{manner}" = "FILE.txt".',
            )
    return content


def _check_tasks(source: str, tasks: Iterable[str], labels: Collection[str]) -> None:
    for task in tasks:
        if task not in labels:
            raise RecipeError(
                f"{MANNERS} ({source}): the taxonomy has no task {task!r}{_hint(task, labels)}",
                remedy="Mend the label, or leave the line out.",
            )


def _hint(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""
