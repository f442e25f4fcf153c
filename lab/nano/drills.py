"""What the nano student reads before it meets an instruction: arithmetic facts and copying.

A pre-trained language model brings such a substrate along. Facts have the notation of worked answers
(`46+42=88`, `65/7=9 r2`); copying repeats words, numbers or letters that stand earlier in the text.
"""

from __future__ import annotations

import random


def fact(generator: random.Random) -> tuple[str, str]:
    """One true line of arithmetic: what is given, and what follows from it."""
    kind = generator.choices(("sum", "product", "quotient", "remainder", "order", "halves"), (10, 4, 2, 3, 1, 1))[0]
    small = generator.random() < 0.7
    if kind == "sum":
        size = 99 if small else 700
        a = generator.randint(-99 if generator.random() < 0.3 else 0, size)
        b = generator.randint(0, 20 if generator.random() < 0.4 else min(size, 399)) * generator.choice((1, -1))
        return f"{a}{b:+d}=", str(a + b)
    if kind == "product":
        a, b = generator.randint(0, 12 if small else 99), generator.randint(0, 12)
        b *= generator.choice((1, 1, 1, 10))
        return f"{a}*{b}=", str(a * b)
    if kind == "quotient":
        a, b = generator.randint(1, 40), generator.randint(2, 20)
        return f"{a * b}/{b}=", str(a)
    if kind == "remainder":
        a, b = generator.randint(1, 99 if small else 300), generator.randint(2, 12 if small else 60)
        return (f"{a}%{b}=", str(a % b)) if generator.random() < 0.6 else (f"{a}/{b}=", f"{a // b} r{a % b}")
    if kind == "order":
        a, b = generator.randint(-99, 99), generator.randint(-99, 99)
        return f"{a} {b} ", f"{a}{'<' if a < b else '>'}{b}"
    number, halves = generator.randint(1, 400), []
    while number:
        halves.append(number)
        number //= 2
    return str(halves[0]), "".join(f" {half}" for half in halves[1:])


def copying(generator: random.Random, words: list[str]) -> tuple[str, str]:
    """Something, and the same again: as it is, spelled, numbered, or backwards."""
    kind = generator.choice(("again", "again", "spelled", "numbered", "backwards", "numbers"))
    chosen = generator.sample(words, generator.randint(1, 5))
    if kind == "again":
        text = " ".join(chosen)
        return f"{text} >", f" {text}"
    if kind == "spelled":
        return f"{chosen[0]} >", f" {' '.join(chosen[0])}"
    if kind == "numbered":
        numbered = "".join(f" {place} {word}" for place, word in enumerate(chosen, start=1))
        return f"{', '.join(chosen)} >", numbered
    if kind == "backwards":
        letters = chosen[0][: generator.randint(2, 6)]
        return f"{' '.join(letters)} >", f" {letters[::-1]}"
    numbers = [str(generator.randint(-99, 99)) for _ in range(generator.randint(2, 6))]
    return f"{numbers} >", f" {' '.join(numbers)}"
