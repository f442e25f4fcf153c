"""Screen for answers that only refuse, and for texts with personal data or keys in them; by rule."""

from __future__ import annotations

import re

REFUSAL = "refusal"

_SHORT = 60  # words: a longer answer says more than that it refuses
_CANNOT = r"(?: ca(?:n['\u2019]t|nnot|n not)|(?: am|['\u2019]m) (?:not able to|unable to)| do(?:n['\u2019]t| not) have)"
_REGRET = r"(?:my )?(?:sincere )?apologies|I apologi[sz]e|sorry|unfortunately"
_SORRY = rf"(?:I(?:['\u2019]m| am) (?:\w+ )?(?:sorry|afraid)|{_REGRET})"
_MODEL = r"(?:as|I am|I['\u2019]m) an? (?:large )?(?:AI|artificial intelligence|language model|assistant)[^.,;]{0,60}"
_HELP = r"(?:(?:help|assist)(?= (?:you|with)\b|[.,!]|$)|fulfil|comply|provide|answer|create|write|generate|access)"
_REFUSAL = re.compile(rf"\s*(?:{_SORRY}|{_MODEL})[^.!?\n]{{0,120}}?\bI{_CANNOT}\b|\s*I{_CANNOT} {_HELP}", re.IGNORECASE)

_EMAIL = re.compile(r"(?<![\w.+/-])(?P<name>[\w.+-]{1,64})@(?P<host>(?:[\w-]{1,63}\.)+[A-Za-z]{2,24})(?![\w@])")
_NOBODY = re.compile(
    r"example|test|user(?:name)?\d*|name|your[\w.]*|my_\w*|\W*|someone|abc|xyz|(?:john|jane)[._]?doe", re.IGNORECASE
)
_NOWHERE = re.compile(
    r"(?:^|\.)(?:example\d*|test|sample|domain|company|(?:my|your)(?:domain|site|company)|email)\.|\.(?:example|test|invalid|local)$",
    re.IGNORECASE,
)
_KEY = re.compile(
    r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"
    r"|\bgh[pousr]_[A-Za-z0-9]{36}|\bgithub_pat_\w{60,}|\bsk-(?:proj-|ant-|or-)?[\w-]{32,}|\b[rs]k_live_[A-Za-z0-9]{24,}"
    r"|\bxox[abprs]-[\w-]{20,}|\bhf_[A-Za-z]{34}\b|\bAIza[\w-]{35}\b"
)
_MARKS = (" KEY-", "AKIA", "ASIA", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "_pat_", "sk-", "live_", "xox", "hf_", "AIz")
_CARD = re.compile(r"(?<![\w.-])(?:\d[ -]?){12,18}\d(?![\w-])")
_CARDS = re.compile(
    r"3[47]\d{13}|4\d{12}(?:\d{3}){0,2}|5[1-5]\d{14}|2[2-7]\d{14}|6(?:011|5\d\d)\d{12}|3(?:0[0-5]|[68]\d)\d{11}"
)


def refuses(answer: str) -> bool:
    """Return whether an answer does no more than refuse: a short one that begins with a regret or what it cannot do."""
    return len(answer.split()) <= _SHORT and _REFUSAL.match(answer) is not None


def secret(text: str) -> str:
    """Return what of somebody's own a text has in it: "e-mail address", "key", "card number"; "" for nothing found."""
    if "@" in text and any(map(_is_somebody, _EMAIL.finditer(text))):
        return "e-mail address"
    if any(mark in text for mark in _MARKS) and _KEY.search(text):  # every key has a mark, which is found faster
        return "key"
    return "card number" if any(_is_card(found[0]) for found in _CARD.finditer(text)) else ""


def unwanted(text: str) -> str:
    """Return what speaks against training on an answer, with what it holds; "" for nothing found."""
    if refuses(text):
        return f"{REFUSAL}: {text.strip()[:80]}"
    return f"holds a secret: {found}" if (found := secret(text)) else ""


def unless_refusal(fault: str) -> str:
    """Return what a screen found in an instruction: none refuses, though one may well begin as a refusal does."""
    return "" if fault.startswith(REFUSAL) else fault


def _is_somebody(address: re.Match[str]) -> bool:
    return not (_NOBODY.fullmatch(address["name"]) or _NOWHERE.search(address["host"]))


def _is_card(written: str) -> bool:
    """Return whether digits are the number of a card: of a length and beginning that exist, and with the right sum."""
    digits = [int(sign) for sign in written if sign.isdigit()]
    doubled = (digit if place % 2 == 0 else sum(divmod(2 * digit, 10)) for place, digit in enumerate(reversed(digits)))
    number = "".join(map(str, digits))
    return bool(_CARDS.fullmatch(number)) and sum(doubled) % 10 == 0
