"""Other words for what the library's templates say; none of them is a wording the library has itself."""

from __future__ import annotations

from collections.abc import Mapping

from tapir.gym.template import split

WRAPS: tuple[tuple[str, str], ...] = (
    ("Here is a task for you: ", ""),
    ("Please do the following. ", ""),
    ("Could you help me with this? ", ""),
    ("I would like you to answer this. ", ""),
    ("Please think about this and then answer. ", ""),
    ("Hello! ", " Thanks in advance."),
    ("", " Thank you."),
)
"""Before and after an instruction; what has something after it is for instructions that end like a sentence."""

ASIDES: tuple[str, ...] = (
    "The weather has been rather grey lately.",
    "My coffee has gone cold again.",
    "The new curtains in the kitchen are green.",
    "Somebody left the window open.",
    "There is a pile of books on my desk.",
    "The soup needs a little more salt.",
    "It rained all through the night.",
    "The garden looks lovely in spring.",
    "My phone is nearly out of charge.",
    "The train was quiet and almost empty.",
    "I really should tidy up this room.",
    "The lamp in the hall flickers.",
    "Bread smells best when it is fresh.",
    "The old fence could do with some paint.",
)
"""Sentences without a number, a name, an animal, a relative or a time, so that no skill can be about them."""

_PHRASES: Mapping[str, tuple[str, ...]] = {
    # arithmetic and number theory
    "State the final answer to the following arithmetic problem": (
        "Work out the following",
        "Give the result of this calculation",
        "Tell me what this comes to",
    ),
    "Calculate": ("Compute", "Work out", "Please find"),
    "Solve the following multiplication": ("Multiply these numbers", "Work out this product", "Find the product"),
    "Give only the result as your final answer": ("Answer with the result alone", "Write nothing but the result"),
    "Find the Greatest Common Divisor": ("Determine the largest common divisor", "Work out the highest common divisor"),
    "Give only the GCD as your final answer": ("Answer with the GCD alone", "Write nothing but the GCD"),
    "Find the Least Common Multiple": ("Determine the lowest common multiple", "Work out the smallest common multiple"),
    "Find the prime factorization of": ("Break down into prime factors the number", "Write as a product of primes:"),
    "Simplify the fraction": ("Reduce the fraction", "Bring the fraction"),
    "Give only the simplified fraction as your final answer": (
        "Answer with the simplified fraction alone",
        "Write nothing but the simplified fraction",
    ),
    # algebra
    "Solve for": ("Find", "Work out", "Please tell me"),
    "Find the value of": ("Work out the value of", "Tell me the value of"),
    "Determine the value of": ("Work out the value of", "Tell me the value of"),
    "the complex numbers": ("these complex numbers", "the following complex numbers"),
    # logic and relations
    "Consider these statements": ("Suppose that the following is true", "Take these statements as given"),
    "Does it logically follow that": ("Can one conclude that", "Does this imply that"),
    "and she also has": ("as well as", "along with", "in addition to"),
    "They have a child called": ("They have a child by the name of", "Together they have a child named"),
    "is married to": ("is the spouse of",),
    # strings, lists and counting
    "Spell this word backward": ("Write this word from back to front", "Turn around the letters of this word"),
    "Solve the following problem": ("Here is a small problem", "Please do what is asked below"),
    "Reverse this list of words": ("Turn this list of words around", "List these words from last to first"),
    "Restore the correct order of words in the following sentence": (
        "Put the words of this sentence in the right order",
        "The words of this sentence are mixed up and should be sorted out",
    ),
    "Return the new list in the same format": (
        "Write the resulting list in the same format",
        "Answer with the list that you get, in the same format",
    ),
    "How many times does the letter": ("How often does the letter",),
    "appear in the text": ("occur in the text", "show up in the text"),
    "are there in the binary representation of the number": (
        "are found in the binary form of the number",
        "do you see when you write in binary the number",
    ),
    "Your task is to count how many legs there are in total when given a list of animals": (
        "You are given a list of animals and should add up all of their legs",
        "Count all the legs in a list of animals",
    ),
    "how many legs are there in total if you have": (
        "what is the total number of legs of",
        "how many legs are there altogether when there are",
    ),
    # calendar
    "If today is": ("Suppose that today is", "Assume that today is"),
    "Starting from": ("Counting from", "Beginning at"),
    "what's the weekday": ("which weekday is it", "what weekday does that give"),
    "Answer with": ("Reply with", "Respond with"),
    "What is the duration between": ("How long is it between", "How much time lies between"),
    "How much time elapsed from": ("How much time passed from", "How long is it from"),
    "Please answer in": ("Please reply in", "Write it in"),
    "Answer in": ("Reply in", "Write it in"),
    "Give your answer in": ("Write your answer in", "Reply in"),
    "Express the result in": ("Write the result in", "State the result in"),
    # conversion, geometry, probability
    "Your task is to convert a number between two different bases": (
        "You have to write a number in another base",
        "A number is to be written in a different base",
    ),
    "Now, convert the": ("So convert the", "Please convert the"),
    "Return only the angle as your answer": ("Answer with the angle alone", "Write nothing but the angle"),
    "Do not give the units in your answer": ("Leave out the units", "Answer without the units"),
    "Given a square matrix, your job is to rotate it clockwise": (
        "You are given a square matrix and should turn it clockwise",
        "Below you find a square matrix that has to be turned clockwise",
    ),
    "Your output should be a matrix in the same format as the input": (
        "Answer with a matrix in the same format as the input",
        "Write the matrix that you get in the same format as the input",
    ),
    "Rotate the matrix below by": ("Turn the matrix below by",),
    "What is the probability of getting": ("How likely is it to get", "With what probability does one get"),
    "fair coin flips": ("flips of a fair coin", "tosses of a fair coin"),
}

PHRASES: Mapping[tuple[str, ...], tuple[str, ...]] = {split(phrase): others for phrase, others in _PHRASES.items()}
"""Phrases as tokens, and what can be said instead."""
