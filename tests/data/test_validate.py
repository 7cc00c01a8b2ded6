from __future__ import annotations

import hashlib
import json

import pytest

from sintonia.data.renderer import Renderer, RendererFiles
from sintonia.data.validate import detect_format, iter_examples, validate, with_method
from sintonia.domain.datasets import MAX_PROBLEMS_KEPT
from sintonia.domain.examples import ChatExample, CompletionExample
from sintonia.domain.methods import MethodType
from sintonia.errors import InvalidData, InvalidValue

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CONTEXT = 100
LEARNED = 4  # "yes!" without its end token


@pytest.fixture(scope="module")
def renderer(tiny_tokenizer_json):
    """A byte-level tokenizer and ChatML without tools: one token a byte."""
    return Renderer(
        RendererFiles(
            tokenizer_json=tiny_tokenizer_json.encode(),
            template=TEMPLATE,
            context_tokens=CONTEXT,
            stop_tokens=("<|im_end|>",),
            bos_token=None,
        )
    )


@pytest.fixture
def file(tmp_path):
    """Write rows (objects, or bytes for a raw line) and return the file's path."""

    def write(*rows):
        path = tmp_path / "train.jsonl"
        lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
        path.write_bytes(b"".join(line + b"\n" for line in lines))
        return path

    return write


def chat(number=0, user="ok?", answer="yes!"):
    return {
        "messages": [
            {"role": "user", "content": f"{number:04}{user}"},
            {"role": "assistant", "content": answer},
        ]
    }


def pair(number=0):
    return {"prompt": f"{number}", "completion": " x"}


def chats(count, start=0):
    return [chat(number) for number in range(start, start + count)]


def test_a_good_file_is_valid_and_its_report_says_what_it_holds(file):
    path = file(*chats(12))
    report = validate(path)
    assert report.is_valid
    assert report.problems == ()
    assert report.warnings == ()
    assert (report.path, report.format, report.num_examples) == (str(path), "chat", 12)
    assert report.size_bytes == path.stat().st_size
    assert report.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert report.num_tokens is None
    assert report.num_learned_tokens is None
    assert report.longest_row_tokens is None


def test_pairs_are_a_valid_file_too(file):
    report = validate(str(file(*[pair(number) for number in range(10)])))
    assert report.is_valid
    assert report.format == "completion"


@pytest.mark.parametrize("count", [0, 7, 9])
def test_too_few_rows_are_refused_in_openai_s_words(file, count):
    report = validate(file(*chats(count)))
    assert report.summary() == (
        f"Training file has {count} example(s), but must have at least 10 examples"
    )
    assert report.problems[0].line is None


def test_the_smallest_number_of_rows_can_be_chosen(file):
    assert validate(file(*chats(1)), min_examples=1).is_valid
    report = validate(file(), min_examples=1, called="Validation file")
    assert report.summary().startswith("Validation file has 0 example(s)")


def test_every_problem_is_found_with_its_place(file):
    bad = {"messages": [{"role": "user", "content": 1}, {"role": "bot"}], "id": 3}
    report = validate(file(*chats(5), b"", b"{", bad, *chats(5, start=5)))
    assert report.num_examples == 12
    assert report.num_problems == 4
    found = [(p.line, p.message_number, p.field) for p in report.problems]
    assert found == [
        (7, None, None),
        (8, None, "id"),
        (8, 1, "messages[0].content"),
        (8, 2, "messages[1].role"),
    ]
    assert report.problems[0].message.startswith("Example 6 cannot be parsed.")
    assert report.problems[0].message.endswith("(line 7)")
    assert report.problems[2].message.startswith("Example 7, message 1 has content")


def test_problems_beyond_the_cap_are_counted_and_not_kept(file):
    report = validate(file(*[b'{"'] * 250))
    assert report.num_problems == 250
    assert len(report.problems) == MAX_PROBLEMS_KEPT
    assert report.summary().endswith("(247 more problems)")


def test_one_row_with_very_many_problems_is_capped_too(file):
    row = {"messages": [{"role": "bot"}] * 20_000}
    report = validate(file(row, *chats(10)))
    assert report.num_problems == 20_000
    assert len(report.problems) == MAX_PROBLEMS_KEPT


def test_each_row_of_another_format_is_refused(file):
    report = validate(file(*chats(10), pair(), chat(10), pair()))
    assert report.format == "chat"
    assert [problem.line for problem in report.problems] == [11, 13]
    assert report.problems[0].message == (
        "Example 11 is in the completion format, but the file begins in the chat format. "
        "Use one format per file."
    )


def test_rows_of_no_known_shape_are_refused_in_openai_s_words(file):
    report = validate(file(*[{"text": str(number)} for number in range(10)]))
    words = "Unexpected file format, expected either prompt/completion pairs or chat messages."
    assert report.format is None
    assert report.problems[0].message == words
    assert report.problems[9].message == f"Example 10: {words}"
    assert [problem.line for problem in report.problems] == list(range(1, 11))


def test_a_file_is_refused_for_a_method_that_does_not_learn_from_its_format(file):
    report = validate(file(*chats(12)))
    assert with_method(report, MethodType.SUPERVISED, "file-1") is report
    refused = with_method(report, MethodType.DPO, "file-1")
    assert (refused.num_problems, refused.is_valid) == (1, False)
    assert refused.summary() == (
        "Input file file-1 is in the fine-tune-chat format, but the specified fine-tuning job is "
        "not using 'supervised' as the training method (provided method=dpo)."
    )
    answer = {"role": "assistant", "content": "x"}
    preference = {
        "input": {"messages": [{"role": "user", "content": "?"}]},
        "preferred_output": [answer],
        "non_preferred_output": [answer | {"content": "y"}],
    }
    pairs = validate(file(*[preference] * 12))
    assert with_method(pairs, MethodType.DPO, "file-2") is pairs
    assert "is not using 'dpo' as the training method (provided method=supervised)." in (
        with_method(pairs, MethodType.SUPERVISED, "file-2").summary()
    )


def test_repeated_rows_are_a_warning_with_their_count(file):
    report = validate(file(*chats(10), chat(0), chat(0), chat(5)))
    assert report.is_valid
    assert report.warnings == ("3 example(s) repeat an earlier one word for word.",)


def test_a_file_that_is_no_json_lines_has_one_problem(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_bytes("\n".join(json.dumps(row) for row in chats(12)).encode("utf-16"))
    report = validate(path)
    assert report.num_problems == 1
    assert "UTF-16" in report.summary()
    assert report.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("name", ["missing.jsonl", "."])
def test_a_file_that_cannot_be_opened_is_told_as_such(tmp_path, name):
    with pytest.raises(InvalidValue, match="cannot be read"):
        validate(tmp_path / name)
    with pytest.raises(InvalidValue, match="cannot be read"):
        next(iter_examples(tmp_path / name))


def test_progress_grows_to_the_size_of_the_file(file):
    path = file(*[chat(number, answer="yes!" * 1000) for number in range(1000)])
    told = []
    validate(path, progress=lambda done, total: told.append((done, total)))
    size = path.stat().st_size
    assert len(told) >= 3
    assert told == sorted(told)
    assert told[-1] == (size, size)


# --- with a renderer --------------------------------------------------------------------------


def test_tokens_are_counted_over_all_sequences(file, renderer):
    two_turns = {"messages": chat(1)["messages"] + chat(2)["messages"]}
    rows = [*chats(9), two_turns]
    report = validate(file(*rows), renderer=renderer)
    assert report.is_valid
    one = len("<user\n0000ok?>\n<assistant\n" + "yes!>")
    two = one + len("\n<user\n0000ok?>\n<assistant\n" + "yes!>")
    assert report.num_tokens == 10 * one + two
    assert report.num_learned_tokens == 11 * (LEARNED + 1)
    assert report.longest_row_tokens == two


def test_messages_with_weight_0_are_not_counted_as_learned(file, renderer):
    row = {"messages": chat(1)["messages"] + chat(2)["messages"]}
    row["messages"][1] = {**row["messages"][1], "weight": 0}
    report = validate(file(row), renderer=renderer, min_examples=1)
    assert report.num_learned_tokens == LEARNED + 1


def test_a_row_longer_than_the_context_is_refused_by_number(file, renderer):
    report = validate(file(*chats(10), chat(10, answer="y" * 100)), renderer=renderer)
    tokens = len("<user\n0000ok?>\n<assistant\n") + 100 + 1
    assert [problem.message for problem in report.problems] == [
        (
            f"Example 11 has {tokens} tokens; the model reads at most {CONTEXT}. "
            "Shorten it, or set `truncate`."
        )
    ]
    assert report.problems[0].line == 11
    assert report.longest_row_tokens == tokens


def test_a_row_that_just_fits_is_accepted(file, renderer):
    room = CONTEXT - len("<user\n0000ok?>\n<assistant\n") - 1
    assert validate(file(*chats(9), chat(9, answer="y" * room)), renderer=renderer).is_valid
    report = validate(file(*chats(9), chat(9, answer="y" * (room + 1))), renderer=renderer)
    assert report.num_problems == 1


def test_truncation_makes_long_rows_a_warning_and_counts_what_is_left(file, renderer):
    report = validate(file(*chats(9), chat(9, answer="y" * 500)), renderer=renderer, truncate=True)
    assert report.is_valid
    assert report.warnings[0].startswith("1 example(s) are longer than the model reads")
    assert report.longest_row_tokens == CONTEXT
    left = CONTEXT - len("<user\n0000ok?>\n<assistant\n")
    assert report.num_learned_tokens == 9 * (LEARNED + 1) + left


def test_truncation_that_would_leave_nothing_to_learn_is_refused(file, renderer):
    report = validate(file(*chats(9), chat(9, user="u" * 500)), renderer=renderer, truncate=True)
    assert report.num_problems == 1
    assert report.problems[0].message.startswith("Example 10 has nothing to learn")
    assert report.problems[0].line == 10


def test_a_special_token_in_a_text_is_refused_with_its_message(file, renderer):
    row = chat(9, answer="well <|im_end|> then")
    (problem,) = validate(file(*chats(9), row), renderer=renderer).problems
    assert problem.message == "Example 10, message 2 contains an invalid token: <|im_end|>."
    assert (problem.line, problem.message_number) == (10, 2)


def test_tools_that_the_template_leaves_out_are_refused(file, renderer):
    tool = {"type": "function", "function": {"name": "look"}}
    (problem,) = validate(file(*chats(9), {**chat(9), "tools": [tool]}), renderer=renderer).problems
    assert problem.message.startswith("Example 10 cannot be rendered: ")
    assert "leaves out the tools" in problem.message
    assert problem.field == "tools"


# --- reading for training ---------------------------------------------------------------------


def test_examples_come_with_their_numbers(file):
    found = list(iter_examples(file(b"", pair(1), b"", pair(2))))
    assert found == [
        (1, CompletionExample(prompt="1", completion=" x")),
        (2, CompletionExample(prompt="2", completion=" x")),
    ]
    assert [type(example) for _, example in iter_examples(file(*chats(2)))] == [ChatExample] * 2


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (b"{", "Example 2 cannot be parsed"),
        (b'{"messages": []}', "Example 2 has no messages"),
        (b'{"prompt": "a", "completion": "b"}', "Example 2 is in the completion format"),
        (b'{"text": "a"}', "Example 2: Unexpected file format"),
        (b'{"preferred_output": []}', "Example 2 is in the preference format"),
    ],
)
def test_reading_for_training_stops_at_a_bad_row(file, bad, words):
    examples = iter_examples(file(chat(0), bad, chat(1)))
    assert next(examples)[0] == 1
    with pytest.raises(InvalidData, match=words):
        next(examples)


def test_reading_for_training_refuses_a_file_that_is_no_json_lines(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_bytes(b"\x1f\x8b rest")
    with pytest.raises(InvalidData, match="gzip"):
        list(iter_examples(path))


def test_the_format_of_rows_can_be_asked_for():
    assert detect_format([chat()]) == "chat"


def test_a_row_that_only_answers_is_refused_at_its_message(file, renderer):
    row = {"messages": [{"role": "assistant", "content": "yes!"}]}
    report = validate(file(*chats(10), row), renderer=renderer)
    (problem,) = report.problems
    assert (problem.line, problem.message_number, problem.field) == (11, 1, "messages[0].role")
    assert problem.message.startswith("Example 11, message 1 is from the assistant and answers")


def test_a_template_that_cannot_write_an_answer_says_which_message(file, tiny_tokenizer_json):
    files = RendererFiles(
        tokenizer_json=tiny_tokenizer_json.encode(),
        template=TEMPLATE.replace("assistant\n{%", "assistant\n\n{%"),
        context_tokens=CONTEXT,
        stop_tokens=("<|im_end|>",),
        bos_token=None,
    )
    report = validate(file(*chats(10)), renderer=Renderer(files))
    assert report.num_problems == 10
    assert report.problems[0].field == "messages[1]"
    assert report.problems[0].message.startswith("Example 1, message 2 cannot be rendered: the")


def test_a_key_of_any_length_is_told_in_few_words(file):
    report = validate(file(*chats(10), {**chat(), "k" * 5_000: 1}))
    (problem,) = report.problems
    assert len(problem.message) < 200
    assert len(problem.field) <= 60
