"""Prompt templates: text files for teacher, judge and tagger, checked when they are loaded."""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from tapir.config.base import nearest
from tapir.domain.errors import RecipeError
from tapir.domain.instruction import Instruction
from tapir.models.api.protocol import Message

_FOLDER = resources.files("tapir.models.prompts")
SLOTS: Mapping[str, frozenset[str]] = {
    name: frozenset(slots) for name, slots in tomllib.loads((_FOLDER / "slots.toml").read_text("utf-8")).items()
}
"""Every prompt but those in refine/, with the slots it must have and no others."""

STYLES = "refine/styles"
"""The file that gives every task its style."""

_REFINE_SLOTS = frozenset({"instruction", "answer", "task"})
_RECORDED_STYLES = "refine/manners"  # its name in manifests

TAGS = (
    *("instruction", "answer", "answer_a", "answer_b", "rubric", "example"),
    *("score", "score_a", "score_b", "label", "new_instruction"),
)
"""Names of the tags that hold quoted texts in our prompts and results in the replies to them."""

_ROLES = ("system", "user", "assistant")  # tags of the turns of a conversation
_HARMLESS = "\N{SINGLE LEFT-POINTING ANGLE QUOTATION MARK}"
_SLOT = re.compile(r"\{\{[ \t]*([^{}\n]*?)[ \t]*\}\}")
_HEADER = re.compile(r"^[ \t]*\[[ \t]*(?:system|user|assistant)[ \t]*\][ \t]*$", re.MULTILINE | re.IGNORECASE)
_ONE_MESSAGE = "judge-finish", "judge-repair", "reply-", "rubric-"


def _tag(bracket: str, names: Sequence[str]) -> re.Pattern[str]:
    """Return a pattern for the opening bracket of one of our tags.

    `a < score and b > c` is no tag: white space after the bracket is only allowed for where nothing but
    attributes with values follows the name. Runs are possessive, so that no text can make the search slow.
    """
    name = f"(?:{'|'.join(names)})"
    value = rf"""(?:"[^"]*+"|'[^']*+'|[^\s"'<>{_HARMLESS}]++)"""
    return re.compile(
        rf"""{bracket}(?=
            \s*+ / \s*+ {name} (?![\w-])
          | {name} (?: \s++ [\w:.-]++ (?: \s*+ = \s*+ {value} )? )* \s*+ /? \s*+ >
          | \s++ {name} (?: \s++ [\w:.-]++ \s*+ = \s*+ {value} )* \s*+ /? \s*+ >
        )""",
        re.VERBOSE | re.IGNORECASE,
    )


_LIVE, _TURN, _DEFUSED = _tag("<", TAGS), _tag("<", _ROLES), _tag(_HARMLESS, (*TAGS, *_ROLES))


def quoted(text: str) -> str:
    """Make text from the corpus or a model safe to stand between our tags.

    The bracket that opens a tag named in `TAGS` becomes U+2039, so the text can neither end its quotation nor
    hold a result that a judge might echo. NUL is dropped, because servers that hand the prompt on as a C string
    end it there. All else stays as it is, and quoting twice is quoting once.
    """
    return _LIVE.sub(_HARMLESS, text.replace("\0", ""))


def quoted_conversation(instruction: Instruction) -> str:
    """Make an instruction safe to stand between our tags; of a conversation every turn stands in a tag of its role."""
    if not instruction.context:
        return quoted(instruction.text)
    turns = ((turn["role"], _TURN.sub(_HARMLESS, quoted(turn["content"]))) for turn in instruction.messages)
    return "\n".join(f"<{role}>\n{content}\n</{role}>" for role, content in turns)


def restored(text: str) -> str:
    """Return what a model wrote from quoted text with its tags restored: `<label>` is HTML before it is ours."""
    return _DEFUSED.sub("<", text)


def seeds(instructions: Iterable[Instruction]) -> str:
    """Return the value of the slot `seeds`: each instruction quoted, in an `<example>` of its own."""
    return "\n\n".join(f"<example>\n{quoted_conversation(each)}\n</example>" for each in instructions)


@dataclass(frozen=True, slots=True)
class PromptFile:
    """One prompt."""

    name: str
    text: str  # the file as it is, slots and headers included
    digest: str  # 16 hex digits of blake2b over the text
    source: str  # "shipped", or the path it was read from

    def messages(self, **values: str) -> list[Message]:
        """Return the chat with every slot filled, in one pass: nothing inside a value is ever taken for a slot."""
        slots = set(_SLOT.findall(self.text))
        if slots != values.keys():
            missing, unknown = sorted(slots - values.keys()), sorted(values.keys() - slots)
            raise TypeError(f"{self.name}: slots without a value {missing}, values without a slot {unknown}")
        parts = _parts(self.text)
        return [Message(role=role, content=_SLOT.sub(lambda slot: values[slot[1]], part)) for role, part in parts]

    def fill(self, **values: str) -> str:
        """Return the text of a prompt that becomes part of another message: `load` sees to it that it is one."""
        return self.messages(**values)[0]["content"]


def load(name: str, override: Path | None = None) -> PromptFile:
    """Read a prompt, for example "judge-pairwise" or "refine/code", from its shipped file or another, and check it."""
    prompt = _read(name, override)
    problems = [*_header_problems(prompt), *_slot_problems(prompt)]
    if problems:
        where, remedy = prompt.source, f"Fix the file; docs/prompts.md lists what {name} must hold."
        raise RecipeError("\n".join(f"{where}: {problem}" for problem in problems), remedy=remedy)
    return prompt


@dataclass(frozen=True, slots=True)
class PromptSet:
    """Every prompt in use, and the style each task is refined in."""

    prompts: Mapping[str, PromptFile]  # by name; of refine/ only the styles that some task has
    styles: Mapping[str, str]  # by task
    default: str  # the style of every other task
    styles_digest: str

    @classmethod
    def of(cls, overrides: Mapping[str, Path], labels: Collection[str] = ()) -> PromptSet:
        """Load the shipped prompts with some of them replaced.

        A "refine/styles" of the user's may name new styles where "refine/NAME" brings them, but no task beside those
        in `labels`, where given.
        """
        file = _read(STYLES, overrides.get(STYLES))
        styles = _read_styles(file, {*_shipped(), *overrides})
        default = styles.pop("default")
        unknown = sorted(styles.keys() - {*labels}) if labels and STYLES in overrides else []
        if unknown:
            raise RecipeError(
                f"{STYLES} ({file.source}): the taxonomy has no task {unknown[0]!r}{_hint(unknown[0], labels)}",
                remedy="Fix the label, or leave the line out.",
            )
        names = sorted({*SLOTS, *(f"refine/{style}" for style in (default, *styles.values()))})
        for name in sorted(overrides.keys() - {*names, STYLES}):
            raise RecipeError(
                f"prompts.{name}: no prompt of this name is in use{_hint(name, [*names, STYLES])}",
                remedy=f"In use are {', '.join(names)} and {STYLES}.",
            )
        return cls({name: load(name, overrides.get(name)) for name in names}, styles, default, file.digest)

    def __getitem__(self, name: str) -> PromptFile:
        return self.prompts[name]

    def style(self, task: str) -> PromptFile:
        """Return the prompt that refines an answer to an instruction of this task."""
        return self.prompts[f"refine/{self.styles.get(task, self.default)}"]

    def digests(self) -> dict[str, str]:
        """Return the digest by name, for the manifest: equal digests, equal prompts."""
        return {name: file.digest for name, file in self.prompts.items()} | {_RECORDED_STYLES: self.styles_digest}


def _parts(text: str) -> list[tuple[str, str]]:
    """Return role and template of each message, taken apart before any slot is filled."""
    headers = list(_HEADER.finditer(text))
    if not headers:
        return [("user", text.strip())]
    system, user = headers
    return [("system", text[system.end() : user.start()].strip()), ("user", text[user.end() :].strip())]


def _shipped() -> list[str]:
    styles = [f"refine/{entry.name}" for entry in (_FOLDER / "refine").iterdir()]
    files = [entry.name for entry in _FOLDER.iterdir()]
    return sorted(name.removesuffix(".txt") for name in (*files, *styles) if name.endswith(".txt"))


def _read(name: str, override: Path | None) -> PromptFile:
    suffix = ".toml" if name == STYLES else ".txt"
    try:
        if override is None:
            text = (_FOLDER / f"{name}{suffix}").read_text(encoding="utf-8")
        else:
            text = override.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        remedy = "Check the path; the file must be UTF-8."
        raise RecipeError(f"prompts.{name}: {override} cannot be read: {error}", remedy=remedy) from error
    digest = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    return PromptFile(name, text, digest, "shipped" if override is None else str(override))


def _header_problems(file: PromptFile) -> Iterator[str]:
    headers = list(_HEADER.finditer(file.text))
    lines = [header[0].strip() for header in headers]
    if not file.text.strip():
        yield "the file is empty"
    elif not headers:
        return
    elif lines != ["[system]", "[user]"] or file.text[: headers[0].start()].strip():
        right = "a prompt has either none, or [system] as its first line and [user] once below it"
        yield f"header lines {', '.join(lines)}: {right}"
    elif file.name.startswith(_ONE_MESSAGE):
        yield f"{file.name} becomes part of another message and cannot have [system] and [user]"
    else:
        yield from (f"nothing stands under [{role}]" for role, part in _parts(file.text) if not part)


def _slot_problems(file: PromptFile) -> Iterator[str]:
    needed, present = SLOTS.get(file.name, _REFINE_SLOTS), set(_SLOT.findall(file.text))
    for slot in sorted(present - needed):
        yield f"no slot {{{{{slot}}}}} in {file.name}{_hint(slot, needed)}"
    for slot in sorted(needed - present):
        yield f"the slot {{{{{slot}}}}} is missing"


def _read_styles(file: PromptFile, available: Collection[str]) -> dict[str, str]:
    """Return the style by task, "default" among them."""
    remedy = 'Each line is "TASK" = "STYLE", and one is default = "STYLE".'
    try:
        styles = tomllib.loads(file.text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{STYLES} ({file.source}) is not valid TOML: {error}", remedy=remedy) from error
    known = [name.removeprefix("refine/") for name in available if name.startswith("refine/") and name != STYLES]
    if "default" not in styles:
        raise RecipeError(f"{STYLES} ({file.source}) has no default", remedy=remedy)
    for task, style in styles.items():
        if style not in known:
            raise RecipeError(
                f"{STYLES} ({file.source}): {task} = {style!r}: no such style{_hint(str(style), known)}",
                remedy=f'Use one of {", ".join(sorted(known))}, or bring the file: "refine/{style}" = "FILE.txt".',
            )
    return styles


def _hint(name: str, known: Iterable[str]) -> str:
    near = nearest(name, known, cutoff=0.5)
    return f"; did you mean {near}?" if near else ""
