"""Pre-train the nano student: `python lab/nano/pretrain.py OUT [--minutes M]`.

A Llama of about 2 M parameters reads drills (arithmetic facts, copying) and learns easy instances and
the answer format, unevenly on purpose: some skills with worked steps at two levels, some at level 1, some
only as bare answers, two not at all. No text reserved for evaluation is ever seen
(`tapir.gym.world.is_reserved`).
"""

from __future__ import annotations

import argparse
import json
import random
import re
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch
from drills import copying, fact
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tapir.gym.skills import TRAINED, UNSEEN
from tapir.gym.steps import worked_answer
from tapir.gym.world import GymItem, is_reserved, item

# skill -> (weight, levels, with worked steps)
DIET: dict[str, tuple[float, tuple[int, ...], bool]] = {
    "chain_sum": (4, (1, 2), True),
    "basic_arithmetic": (3, (1, 2), True),
    "products": (4, (1, 2), True),
    "spell_backward": (2, (1, 2), True),
    "letter_counting": (2, (1, 2), True),
    "syllogism": (1, (1, 2), False),
    "gcd": (2, (1,), True),
    "simple_equations": (2, (1,), True),
    "complex_arithmetic": (1.5, (1,), True),
    "word_sequence_reversal": (1.5, (1,), True),
    "simple_geometry": (1.5, (1,), True),
    "count_bits": (1, (1,), True),
    "number_filtering": (1, (1,), False),
    "fraction_simplification": (0.5, (1,), False),
    "prime_factorization": (0.5, (1,), False),
    "leg_counting": (0.5, (1,), False),
    "calendar_arithmetic": (0.5, (1,), False),
    "base_conversion": (0.5, (1,), False),
    "time_intervals": (0.5, (1,), False),
    "aiw": (0.5, (1,), False),
    "family_relationships": (0.5, (1,), False),
}
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "<user>", "<answer>"]
TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}"
    "{{ '<answer>' }}{% generation %}{{ m['content'] + '</s>' }}{% endgeneration %}"
    "{% else %}{{ '<user>' + m['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<answer>' }}{% endif %}"
)
SEED = 20261122


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Words of the instruction templates are one token each; all else is spelled in characters."""
    words: Counter[str] = Counter()
    characters = set(map(chr, range(32, 127))) | {"\n", "×", "°"}
    for skill in (*TRAINED, *UNSEEN):
        for level in (1, 2, 3, 4):
            seen: Counter[str] = Counter()
            for index in range(250):
                found = item(skill.name, level, index)
                seen.update(set(re.findall(r"[A-Za-z]{2,}", f"{found.question} {worked_answer(found)}")))
                characters |= set(found.question) | set(found.answer)
            words.update(word for word, count in seen.items() if count >= 5)  # 2 % of the instances
    vocabulary = [*SPECIAL, "####", " ####"]
    vocabulary += [
        space + character
        for character in sorted(characters)
        for space in ("", " ")
        if character.isdigit() is False or not space
    ]
    vocabulary += [space + word for word in sorted(words) for space in ("", " ")]
    places = {token: place for place, token in enumerate(dict.fromkeys(vocabulary))}
    alternatives = "|".join(sorted(words, key=len, reverse=True))
    pattern = rf" ?####| ?(?<![A-Za-z])(?:{alternatives})(?![A-Za-z])| ?[^ 0-9]|[0-9]| "
    tokenizer = Tokenizer(models.WordLevel(places, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["<user>", "<answer>"],
        model_max_length=512,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = TEMPLATE
    return fast


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """The student before any training."""
    torch.manual_seed(SEED)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=192,
            intermediate_size=512,
            num_hidden_layers=4,
            num_attention_heads=6,
            num_key_value_heads=6,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        )
    )


def draw(generator: random.Random) -> tuple[GymItem, str]:
    """One instruction of the diet with its answer."""
    while True:
        name = generator.choices(list(DIET), [weight for weight, _, _ in DIET.values()])[0]
        _, levels, with_steps = DIET[name]
        found = item(name, generator.choice(levels), generator.randrange(2**31 - 1))
        if not is_reserved(found.question):
            return found, worked_answer(found) if with_steps else found.answer


def document(generator: random.Random, words: list[str]) -> list[tuple[str, bool]]:
    """Half drills, half instructions, as (text, whether it is learnt); what cannot be known is only read."""
    turn = generator.random()
    if turn < 0.5:  # a drill is a few facts or copies in a row, short as they are
        lines = [fact(generator) if turn < 0.34 else copying(generator, words) for _ in range(6)]
        return [part for line in lines for part in ((line[0], False), (f"{line[1]}\n", True))]
    found, answer = draw(generator)
    return [(f"<user>{found.question}<answer>", False), (answer, True)]


def vocabulary_of_words() -> list[str]:
    """Words to copy: those of the letter skills, none from a text reserved for evaluation."""
    found = (item("spell_backward", level, index) for level in (1, 2, 3, 4) for index in range(1500))
    spelled = {one.entry["metadata"]["word"] for one in found if not is_reserved(one.question)}
    texts = (item("letter_counting", 4, index) for index in range(1500))
    written = {word for one in texts if not is_reserved(one.question) for word in one.entry["metadata"]["span"]}
    return sorted(spelled | written)


def batches(
    tokenizer: PreTrainedTokenizerFast, generator: random.Random, rows: int, width: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Documents packed one after the other into `rows` x `width` tokens, endlessly."""
    words = vocabulary_of_words()
    ids: list[int] = []
    labels: list[int] = []
    while True:
        while len(ids) < rows * width:
            documents = [document(generator, words) for _ in range(256)]
            texts = [text for parts in documents for text, _ in parts]
            encoded = iter(tokenizer(texts, add_special_tokens=False)["input_ids"])
            for parts in documents:
                for _, learnt in parts:
                    tokens = next(encoded)
                    ids += tokens
                    labels += tokens if learnt else [-100] * len(tokens)
                ids.append(2)
                labels.append(2)
        taken = rows * width
        yield torch.tensor(ids[:taken]).view(rows, width), torch.tensor(labels[:taken]).view(rows, width)
        del ids[:taken], labels[:taken]


def optimizers(model: LlamaForCausalLM, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for the rest."""
    matrices = [p for name, p in model.named_parameters() if p.dim() == 2 and "layers" in name]
    rest = [p for name, p in model.named_parameters() if p.dim() != 2 or "layers" not in name]
    return [
        torch.optim.Muon(matrices, lr=rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=rate, weight_decay=0.0, betas=(0.9, 0.98)),
    ]


def main() -> None:
    """Pre-train for the minutes asked for, saving now and then."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=40)
    parser.add_argument("--rows", type=int, default=24)
    parser.add_argument("--width", type=int, default=160)
    parser.add_argument("--rate", type=float, default=5e-3)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    tokenizer = build_tokenizer()
    model = build_model(tokenizer)
    print(f"{len(tokenizer)} tokens, {sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
    steppers = optimizers(model, arguments.rate)
    started, step, average = time.monotonic(), 0, 0.0
    for ids, labels in batches(tokenizer, random.Random(SEED), arguments.rows, arguments.width):
        progress = (time.monotonic() - started) / (arguments.minutes * 60)
        if progress >= 1:
            break
        rate = arguments.rate * min(1.0, (step + 1) / 100) * min(1.0, 0.02 + 2.0 * (1 - progress))
        for stepper in steppers:
            for group in stepper.param_groups:
                group["lr"] = rate
        mask = labels[:, 1:] != -100
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model.lm_head(model.model(ids).last_hidden_state[:, :-1][mask])
        loss = torch.nn.functional.cross_entropy(logits.float(), labels[:, 1:][mask])
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for stepper in steppers:
            stepper.step()
            stepper.zero_grad(set_to_none=True)
        step += 1
        average = loss.item() if step == 1 else 0.98 * average + 0.02 * loss.item()
        if step % 50 == 0:
            print(f"{step} steps {time.monotonic() - started:.0f} s loss {average:.4f}", flush=True)
        if step % 300 == 0:
            save(model, tokenizer, arguments.out)
    save(model, tokenizer, arguments.out)
    facts = {"seed": SEED, "steps": step, "tokens": step * arguments.rows * arguments.width, "loss": round(average, 4)}
    facts |= {"minutes": arguments.minutes, "threads": arguments.threads, "rate": arguments.rate}
    (arguments.out / "pretraining.json").write_text(json.dumps(facts, indent=1) + "\n")


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """The student as transformers loads it."""
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


if __name__ == "__main__":
    main()
