"""Which task an instruction belongs to, as the fake tagger sees it, and how the fake teacher asks for a task."""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import blake2b

# The first pattern that matches decides, so the narrow ones come first. The opening of each task makes an
# instruction that this very list recognises: what the fake teacher expands, the fake tagger confirms.
_CUES = (
    ("Code Debug", r"\bdebug|\bbug\b|fix (the|this) code|traceback", "Find the bug in a Python function."),
    ("Code Generation", r"\bcode\b|\bfunctions?\b|\bpython\b|\bjavascript\b|\bsql\b|\bscript\b", "In Python code:"),
    ("Multilingual", r"\btranslat|\b(french|german|spanish|chinese|italian)\b", "Translate into French:"),
    ("Grammar", r"\bgramma|\bpunctuation\b|\bverb tense\b", "Correct the grammar:"),
    ("Paraphrase", r"\bparaphras|\brephras|\breword|\brewrite\b", "Paraphrase this:"),
    ("Roleplay", r"\brole-?play|\bpretend\b|\bact as\b|\bimagine you are\b", "Pretend to be a guide."),
    ("Counterfactual", r"\bcounterfactual|\bwhat if\b|\bhad never\b", "What if it had never happened?"),
    ("Complex Format", r"\bcomplex format|\bjson\b|\bmarkdown\b|\btable with\b|\bcsv\b", "Answer in JSON:"),
    ("Toxicity", r"\btoxic|\binsult|\boffensive\b|\bhate\b", "Without an insult:"),
    ("Ethics", r"\bethic|\bmoral", "From the view of ethics:"),
    ("Philosophy", r"\bphilosoph|\bplato\b|\bexisten", "In the words of philosophy:"),
    ("Law", r"\blaws?\b|\blegal|\bcourt\b|\blawyer", "As a question of law:"),
    ("Medicine", r"\bmedic|\bdisease|\bdoctor|\bsymptom", "For a doctor:"),
    ("Health", r"\bhealth|\bdiet\b|\bsleep\b|\bexercise", "For better health:"),
    ("Chemistry", r"\bchemi|\bmolecul|\bacids?\b|\breaction\b", "In terms of chemistry:"),
    ("Physics", r"\bphysic|\bgravity\b|\bquantum\b|\bvelocity\b|\benergy\b", "In terms of physics:"),
    ("Ecology", r"\becolog|\becosystem|\bclimate\b|\bpollution", "In terms of ecology:"),
    ("Biology", r"\bbiolog|\bcells?\b|\bspecies\b|\banimals?\b|\bgenes?\b", "In terms of biology:"),
    ("Economy", r"\becono|\binflation\b|\bmarkets?\b|\btaxe?s?\b", "As a matter of economy:"),
    ("Sport", r"\bsports?\b|\bfootball\b|\btennis\b|\bolympic", "For a sport club:"),
    ("Music", r"\bmusic|\bsongs?\b|\bmelody\b|\bguitar", "For a song:"),
    ("Art", r"\barts?\b|\bartists?\b|\bpainter|\bsculpt", "As a work of art:"),
    ("Literature", r"\bliterature|\bnovel\b|\bshakespeare\b|\bpoet\b", "As literature:"),
    ("Entertainment", r"\bentertain|\bmovies?\b|\bfilms?\b|\bcelebrit", "For a movie:"),
    ("History", r"\bhistor|\bcentury\b|\bancient\b|\bempire\b", "As history:"),
    ("Computer Science", r"\bcomputer science|\balgorithms?\b|\bdatabase|\bcomplexity\b", "As an algorithm:"),
    ("Technology", r"\btechnolog|\bsoftware\b|\bcomputers?\b|\bdevices?\b|\binternet\b", "With new technology:"),
    ("Academic Writing", r"\bacademic|\babstract\b|\bthesis\b|\bcitation", "In academic style:"),
    ("Math", r"\bmath|\bequations?\b|\bsolve\b|^(?=.*\d).*(calculate|how many|\bsum\b)", "Calculate 17 times 23."),
    ("Reasoning", r"\breason|\blogic|\bdeduc|\briddle|\bpuzzle", "Reason step by step:"),
    ("Common-Sense", r"\bcommon[- ]sense|\beveryday\b|\busually\b", "By common sense:"),
    ("Writing", r"\bwrite\b|\bstory\b|\bessay\b|\bpoem\b|\bletter\b|\bdraft\b", "Write a story:"),
    ("Others", r"\bmiscellan", "Miscellaneous:"),
)  # fmt: skip

_PATTERNS = tuple((label, re.compile(pattern, re.IGNORECASE | re.DOTALL)) for label, pattern, _ in _CUES)
OPENINGS = {label: opening for label, _, opening in _CUES}
"""The words that open an instruction of a task, so that it is recognised as one."""


def label_of(instruction: str, labels: Sequence[str]) -> str:
    """One of the labels: by keywords where some match, otherwise by the digest of the instruction."""
    offered = set(labels)
    for label, pattern in _PATTERNS:
        if label in offered and pattern.search(instruction):
            return label
    number = int.from_bytes(blake2b(instruction.encode(), digest_size=8).digest(), "little")
    return labels[number % len(labels)]
