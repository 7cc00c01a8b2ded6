"""Broken training files, made by seeded mutators out of good ones.

The mutators of lines tell which line they spoiled.
"""

from __future__ import annotations

import gzip
import json
import random

NUM_ROWS = 12


def good_rows(rng):
    if rng.random() < 0.3:
        return [{"prompt": f"p{i}", "completion": f" c{i}"} for i in range(NUM_ROWS)]
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    return [
        {
            "messages": [
                {"role": "system", "content": "Olá, você é útil."},
                {"role": "user", "content": f"question {i}"},
                {"role": "assistant", "tool_calls": [call]},
                {"role": "tool", "tool_call_id": "c", "content": "42"},
                {"role": "assistant", "content": f"answer {i}"},
            ]
        }
        for i in range(NUM_ROWS)
    ]


def lines_of(rows):
    return [json.dumps(row, ensure_ascii=False).encode() for row in rows]


def with_bad_line(change):
    """Make a mutator of whole files out of one that spoils a single line.

    It returns the file and the number of the line that it spoiled.
    """

    def mutate(rng, rows):
        lines = lines_of(rows)
        place = rng.randrange(len(lines))
        lines[place] = change(rng, lines[place])
        ended = [line + rng.choice([b"\n", b"\r\n", b"\n\n"]) for line in lines]
        return b"".join(ended), b"".join(ended[:place]).count(b"\n") + 1

    return mutate


def with_bad_row(change):
    """Make a mutator of whole files out of one that spoils a single parsed row."""

    def spoil(rng, line):
        row = json.loads(line)
        return json.dumps(change(rng, row)).encode()

    return with_bad_line(spoil)


def in_a_text(value):
    """Put raw JSON in place of the row's last text."""

    def change(rng, line):
        key, closing = (
            (b'"content": ', b"}]}") if b'"messages"' in line else (b'"completion": ', b"}")
        )
        return line.rpartition(key)[0] + key + value(rng) + closing

    return with_bad_line(change)


def cut(rng, line):
    return line[: rng.randrange(1, len(line))]


def junk_byte(rng, line):
    place = rng.randrange(1, len(line))
    return line[:place] + bytes([rng.choice([0x00, 0x01, 0x80, 0xC0, 0xFF])]) + line[place:]


def wrong_value(rng, row):
    wrong = rng.choice([None, 0, 1.5, True, [], {}, [1], {"a": 1}])
    if "prompt" in row:
        row[rng.choice(["prompt", "completion"])] = wrong
        return row
    where = rng.choice([row, row["messages"][0], row["messages"][1], row["messages"][4]])
    where["messages" if where is row else rng.choice(["role", "content"])] = wrong
    return row


def missing_key(rng, row):
    if "prompt" in row:
        del row[rng.choice(list(row))]
        return row
    message = rng.choice([m for m in row["messages"] if "tool_calls" not in m])
    del message[rng.choice(list(message))]
    return row


def extra_key(rng, row):
    places = [row, *row.get("messages", [])]
    rng.choice(places)["surplus"] = rng.choice([1, None, "x"])
    return row


def wrong_order(rng, row):
    if "prompt" in row:
        return {"prompt": row["prompt"], "completion": ""}
    return {"messages": row["messages"][: rng.choice([0, 1, 2, 4])]}


def wrong_call(rng, row):
    if "prompt" in row:
        return [row]
    call = row["messages"][2]["tool_calls"][0]
    arguments = rng.choice(["", "[]", "{", "NaN", {}, None, '{"a": 1e999}', '{"a":1,"a":2}'])
    rng.choice(
        [lambda: call.update(id="d"), lambda: call["function"].update(arguments=arguments)]
    )()
    return row


def duplicate_key(rng, line):
    key = json.dumps(rng.choice(list(json.loads(line)))).encode()
    return line[:-1] + b", " + key + b": 1}"


def replaced(*lines):
    return with_bad_line(lambda rng, line: rng.choice(lines))


def nested(rng, line):
    depth = rng.choice([65, 500, 5_000, 200_000])
    opening, closing = rng.choice([(b"[", b"]"), (b'{"a":', b"}")])
    return opening * depth + b"1" + closing * (depth if rng.random() < 0.7 else 0)


def mixed(rng, rows):
    other = {"prompt": "a", "completion": "b"} if "messages" in rows[0] else {"messages": []}
    place = rng.randrange(1, len(rows))
    rows.insert(place, other)
    return b"\n".join(lines_of(rows)), place + 1


LINE_MUTATORS = {
    "truncated line": with_bad_line(cut),
    "junk byte": with_bad_line(junk_byte),
    "wrong value": with_bad_row(wrong_value),
    "missing key": with_bad_row(missing_key),
    "extra key": with_bad_row(extra_key),
    "wrong order": with_bad_row(wrong_order),
    "wrong call": with_bad_row(wrong_call),
    "duplicate key": with_bad_line(duplicate_key),
    "deep nesting": with_bad_line(nested),
    "not an object": replaced(b"[]", b"1", b"null", b"true", b'"x"', b"[{}]"),
    "no shape": replaced(b"{}", b'{"text": "x"}', b'{"input": 1}', b'{"preferred_output": []}'),
    "not json": replaced(b"{'a': 1}", b"<html>", b"a,b,c", b"{", b"}", b"---", b"//x", b"\x0c"),
    "no number": in_a_text(lambda rng: rng.choice([b"NaN", b"-Infinity", b"1e999", b"-1e400"])),
    "huge integer": in_a_text(lambda rng: b"9" * rng.choice([20, 400, 5_000])),
    "surrogate": in_a_text(
        lambda rng: rng.choice([rb'"\ud800"', rb'"x\udfff"', rb'"\udc00\ud800"'])
    ),
    "nul": in_a_text(lambda rng: rng.choice([rb'"\u0000"', rb'"a\u0000b"'])),
    "raw control": in_a_text(lambda rng: b'"a' + bytes([rng.randrange(1, 32)]) + b'b"'),
    "inner bom": with_bad_line(lambda rng, line: line[:1] + b"\xef\xbb\xbf" + line[1:]),
    "two rows in a line": with_bad_line(
        lambda rng, line: line + rng.choice([b"", b" ", b"\r"]) + line
    ),
    "latin-1": replaced('{"prompt": "é", "completion": "ã"}'.encode("latin-1")),
    "mixed formats": mixed,
}

FILE_MUTATORS = {
    "empty": lambda rng, rows: rng.choice(
        [b"", b"\n", b"\r\n \n", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n"]
    ),
    "few": lambda rng, rows: b"\n".join(lines_of(rows[: rng.randrange(1, 10)])),
    "utf-16": lambda rng, rows: (
        b"\n".join(lines_of(rows))
        .decode()
        .encode(
            rng.choice(["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
        )
    ),
    "gzip": lambda rng, rows: gzip.compress(b"\n".join(lines_of(rows)))[: rng.randrange(2, 200)],
    "binary": lambda rng, rows: rng.randbytes(rng.randrange(1, 5_000)),
    "flipped bits": lambda rng, rows: bytes(
        byte ^ (1 << rng.randrange(8)) for byte in b"\n".join(lines_of(rows))
    ),
    "one document": lambda rng, rows: json.dumps(rows, indent=rng.choice([None, 2])).encode(),
    "no line ends": lambda rng, rows: rng.choice([b"", b"\r", b" "]).join(lines_of(rows)),
    "torn": lambda rng, rows: torn(rng, lines_of(rows)),
    "text": lambda rng, rows: rng.choice([b"prompt,completion\na,b\n", b"PK\x03\x04x", b"PAR1"]),
}


def torn(rng, lines):
    """Cut the last line somewhere inside: with nothing left of it the rest would be whole."""
    return b"\n".join(lines)[: -rng.randrange(2, min(60, len(lines[-1])))]


def made(mutators, files_per_mutator):
    """Yield a label and what each mutator returns, for as many seeds."""
    for name, mutate in mutators.items():
        for seed in range(files_per_mutator):
            rng = random.Random(f"{name} {seed}")
            yield f"{name} {seed}", mutate(rng, good_rows(rng))
