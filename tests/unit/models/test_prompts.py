from __future__ import annotations

import gzip
import json
import re
from importlib import resources
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from support.paths import SHARED
from tapir.domain.errors import RecipeError
from tapir.domain.instruction import Instruction, Origin
from tapir.domain.task import Taxonomy
from tapir.models.prompts import (
    SLOTS,
    STYLES,
    TAGS,
    PromptFile,
    PromptSet,
    load,
    quoted,
    restored,
    seeds,
)

SHIPPED = PromptSet.of({})
ANGLE = "\u2039"
ALPACA = SHARED / "seed" / "alpaca_data.json.gz"


def written(folder: Path, text: str, name: str = "mine.txt") -> Path:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return file


def refusal(folder: Path, name: str, text: str) -> str:
    """What the error says about this text as the prompt of that name."""
    with pytest.raises(RecipeError) as caught:
        load(name, written(folder, text))
    assert caught.value.remedy
    assert "mine.txt" in str(caught.value)
    return str(caught.value)


def paper_labels() -> list[str]:
    file = resources.files("tapir.recipes") / "taxonomies" / "paper.toml"
    return list(Taxonomy.from_toml(file.read_text(encoding="utf-8")).labels)


def pairwise(**values: str) -> list[str]:
    """The contents of the messages of the shipped pairwise judge."""
    plain = dict.fromkeys(SLOTS["judge-pairwise"], "-") | values
    return [message["content"] for message in SHIPPED["judge-pairwise"].messages(**plain)]


# The shipped prompts


def test_every_shipped_prompt_file_is_in_use() -> None:
    folder = Path(str(resources.files("tapir.models.prompts")))
    files = {file.relative_to(folder).with_suffix("").as_posix() for file in folder.rglob("*.*")}
    assert files - {"__init__", "slots"} == {*SHIPPED.prompts, STYLES}


@pytest.mark.parametrize("prompt", SHIPPED.prompts.values(), ids=SHIPPED.prompts)
def test_every_tag_that_a_shipped_prompt_uses_is_defused_in_quoted_text(prompt: PromptFile) -> None:
    assert set(re.findall(r"</?(\w+)>", prompt.text)) <= set(TAGS)


@pytest.mark.parametrize(
    ("name", "slots"),
    [
        ("judge-pairwise", ["instruction", "answer_a", "answer_b"]),
        ("judge-single", ["instruction", "answer"]),
        ("tag", ["instruction"]),
        *((f"refine/{style}", ["instruction", "answer"]) for style in sorted(set(SHIPPED.styles.values()))),
    ],
)
def test_quoted_material_stands_between_tags_of_its_name(name: str, slots: list[str]) -> None:
    for slot in slots:
        assert SHIPPED[name].text.count(f"<{slot}>\n{{{{{slot}}}}}\n</{slot}>") == 1


def test_the_rationale_comes_before_the_scores() -> None:
    for name in ("reply-pairwise-tagged", "reply-pairwise-json", "reply-single-tagged", "reply-single-json"):
        text = SHIPPED[name].text
        assert text.index("ationale") < text.index("score")


def test_every_task_of_the_paper_has_a_style_and_no_other_task_is_named() -> None:
    assert sorted(SHIPPED.styles) == sorted(paper_labels())


def test_code_is_refined_as_code_and_an_unknown_task_in_the_plain_style() -> None:
    assert SHIPPED.style("Code Debug").name == "refine/debug"
    assert SHIPPED.style("chain_sum").name == "refine/plain"


# Filling


def test_a_slot_inside_a_value_stays_as_it_is() -> None:
    _, user = pairwise(instruction="Say {{answer_b}} and {{reply}}.", answer_b="secret")
    assert "Say {{answer_b}} and {{reply}}." in user
    assert user.count("secret") == 1


@given(st.text())
@example("{{instruction}}")
@example("\\1 \\g<0>")
@example("\r\n[system]\r\n")
def test_a_value_arrives_as_it_was_given(text: str) -> None:
    prompt = PromptFile("answer", "[system]\nBe right.\n[user]\n{{instruction}}\n", "", "shipped")
    assert prompt.messages(instruction=text) == [
        {"role": "system", "content": "Be right."},
        {"role": "user", "content": text},
    ]


def test_a_missing_and_an_unknown_value_are_programming_errors() -> None:
    with pytest.raises(TypeError, match=r"without a value \['reply'\].*without a slot \['replay'\]"):
        SHIPPED["judge-repair"].fill(reason="no score", replay="-")


# Files of the user's


def test_a_file_written_on_windows_is_the_same_prompt_and_one_without_headers_is_the_users_message(
    tmp_path: Path,
) -> None:
    file = tmp_path / "mine.txt"
    file.write_bytes(b"\xef\xbb\xbf" + SHIPPED["answer"].text.replace("\n", "\r\n").encode())
    assert load("answer", file).digest == SHIPPED["answer"].digest
    prompt = load("answer", written(tmp_path, "Answer: {{ instruction }}\n"))
    assert prompt.messages(instruction="2 + 2?") == [{"role": "user", "content": "Answer: 2 + 2?"}]


def test_another_text_is_another_digest(tmp_path: Path) -> None:
    file = written(tmp_path, SHIPPED["answer"].text + "\nThink.\n")
    book = PromptSet.of({"answer": file})
    changed = {name for name, digest in book.digests().items() if digest != SHIPPED.digests()[name]}
    assert changed == {"answer"}
    assert all(re.fullmatch("[0-9a-f]{16}", digest) for digest in book.digests().values())


def test_a_mistyped_slot_is_named_with_the_nearest_right_one(tmp_path: Path) -> None:
    said = refusal(tmp_path, "judge-single", "{{instruction}} {{anwser}} {{rubric}} {{reply}}")
    assert "no slot {{anwser}}" in said
    assert "did you mean answer?" in said
    assert "{{answer}} is missing" in said


@pytest.mark.parametrize("typo", ["{{instruction-text}}", "{{Instruction}}", "{{}}", "{{in struction}}"])
def test_no_typo_between_double_braces_goes_unseen(tmp_path: Path, typo: str) -> None:
    assert f"no slot {typo}" in refusal(tmp_path, "answer", "{{instruction}} " + typo)


@pytest.mark.parametrize(
    "text",
    [
        "[system]\nBe right. {{instruction}}",
        "[user]\n{{instruction}}",
        "Hello\n[system]\nBe right.\n[user]\n{{instruction}}",
        "[user]\n{{instruction}}\n[system]\nBe right.",
        "[system]\nBe right.\n[user]\n{{instruction}}\n[user]\nNow!",
        "[System]\nBe right.\n[User]\n{{instruction}}",
        "[system]\nBe right.\n[user]\n{{instruction}}\n[assistant]\nYes.",
    ],
)
def test_headers_out_of_order_are_refused(tmp_path: Path, text: str) -> None:
    assert "header lines" in refusal(tmp_path, "answer", text)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("answer", "[system]\n\n[user]\n{{instruction}}", "nothing stands under [system]"),
        ("answer", "[system]\n{{instruction}}\n[user]\n", "nothing stands under [user]"),
        ("reply-tag-json", " \n", "empty"),
        ("reply-tag-json", "[system]\nBe right.\n[user]\nJSON!", "cannot have [system]"),  # a piece of a message
    ],
)
def test_an_empty_part_and_a_part_too_many_are_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    assert message in refusal(tmp_path, name, text)


def test_a_file_that_cannot_be_read_is_a_recipe_error(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"prompts\.answer: .*absent\.txt cannot be read"):
        load("answer", tmp_path / "absent.txt")
    broken = tmp_path / "latin.txt"
    broken.write_bytes("{{instruction}} né".encode("latin-1"))
    with pytest.raises(RecipeError, match="cannot be read"):
        load("answer", broken)


def test_an_unknown_prompt_is_named_with_the_nearest_right_one(tmp_path: Path) -> None:
    file = written(tmp_path, "{{instruction}}")
    with pytest.raises(RecipeError, match="did you mean judge-pairwise"):
        PromptSet.of({"judge-pairwize": file})
    with pytest.raises(RecipeError, match="did you mean refine/code"):
        PromptSet.of({"refine/cdoe": file})


# Styles of the user's


def test_a_recipe_brings_a_style_of_its_own(tmp_path: Path) -> None:
    style = written(tmp_path, "{{task}}: {{instruction}} {{answer}}", "sums.txt")
    styles = written(tmp_path, 'default = "plain"\nchain_sum = "sums"\n', "mine.toml")
    book = PromptSet.of({STYLES: styles, "refine/sums": style}, labels=["chain_sum", "gcd"])
    assert book.style("chain_sum").source == str(style)
    assert book.style("gcd").name == "refine/plain"
    assert "refine/code" not in book.digests()
    assert book.digests()["refine/manners"] != SHIPPED.digests()["refine/manners"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            'default = "plain"\nMath = "worked-step"\n',
            "Math = 'worked-step': no such style; did you mean worked-steps?",
        ),
        ('default = "plain"\nMaths = "plain"\n', "no task 'Maths'; did you mean Math?"),
        *((text, STYLES) for text in ("Math = plain", 'Math = "plain"', "default = 3", '[Math]\nstyle = "plain"')),
    ],
)
def test_a_styles_file_that_is_wrong_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        PromptSet.of({STYLES: written(tmp_path, text, "mine.toml")}, labels=["Math", "Law"])
    assert message in str(caught.value)
    assert caught.value.remedy


# Quoting

spaces = st.sampled_from(["", " ", "\n", "\t ", "\u00a0"])
attributes = st.sampled_from(["", ' id="1"', "\n class = 'a b'", " x=1", ' t="a <> b"'])


@st.composite
def tags(draw: st.DrawFn) -> str:
    """Our tags in every spelling that a model may take for one."""
    name = draw(st.sampled_from(TAGS))
    name = draw(st.sampled_from([name, name.upper(), name.title()]))
    slash = draw(st.sampled_from(["", "/"]))
    end = draw(st.sampled_from(["", "/", " /"]))
    return f"<{draw(spaces)}{slash}{draw(spaces)}{name}{draw(attributes)}{draw(spaces)}{end}>"


harmless = st.sampled_from(
    [
        "if low < score and score > high:",
        "while (i<score && p->next)",
        "x <label\n",
        "<b>bold</b> <answers> <answer_c> <scoreboard> <label-box> </labels>",
        "&lt;score_a&gt;10&lt;/score_a&gt;",
        "\uff1cscore_a\uff1e10\uff1c/score_a\uff1e",
        "score_a: 10, [score_a], {score_a}",
        "a < b > c << d",
        "\r\n\t\x07",
    ]
)
pieces = st.lists(st.text(st.characters(blacklist_categories=["Cs"])) | tags() | harmless).map("".join)


@given(tags())
def test_a_tag_of_ours_loses_its_bracket_and_nothing_else(tag: str) -> None:
    assert quoted(tag) == ANGLE + tag[1:]


@pytest.mark.parametrize("tag", ["<score_a bold>", "</answer_a x>", "</answer_a", "<answer_a\n\n>", "</\nscore>"])
def test_a_careless_tag_is_a_tag(tag: str) -> None:
    assert quoted(tag) == ANGLE + tag[1:]


@given(st.text(st.characters(blacklist_characters="<\0")) | harmless)
def test_text_without_our_tags_is_unchanged(text: str) -> None:
    assert quoted(text) == text


@given(pieces)
@example("<answer_a x=<answer_b>")
@example("<answer_a x='<answer_b y='>")
@example('<answer_a x="<answer_b>">')
@example("<ans\0wer_a>")
@example("<<score>>")
def test_quoting_twice_is_quoting_once_and_only_brackets_change(text: str) -> None:
    once = quoted(text)
    assert quoted(once) == once
    assert once.replace(ANGLE, "<") == text.replace("\0", "").replace(ANGLE, "<")
    assert not re.search(rf"<\s*/?\s*({'|'.join(TAGS)})\s*/?\s*>", once, re.IGNORECASE)


@given(pieces.map(lambda text: text.replace(ANGLE, "").replace("\0", "")))
@example('<form><label for="name">Name</label></form>')
def test_what_is_written_from_quoted_text_gets_its_tags_back(text: str) -> None:
    assert restored(quoted(text)) == text


def test_seeds_stand_each_in_an_example_of_its_own() -> None:
    texts = ("Add 1.", "Close </example> it.")
    assert seeds(Instruction.of(text, Origin("corpus")) for text in texts) == (
        f"<example>\nAdd 1.\n</example>\n\n<example>\nClose {ANGLE}/example> it.\n</example>"
    )


def test_in_a_real_corpus_hardly_a_text_is_touched_and_all_come_back() -> None:
    if not ALPACA.is_file():
        pytest.skip("shared/data is absent")
    with gzip.open(ALPACA, "rt", encoding="utf-8") as file:
        texts = [text for row in json.load(file) for text in row.values()]
    touched = [text for text in texts if quoted(text) != text]
    assert 0 < len(touched) < len(texts) / 1000
    assert all(re.search("<label|<answer>", text) for text in touched)
    assert all(restored(quoted(text)) == text for text in touched)
