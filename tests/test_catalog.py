from __future__ import annotations

import pytest

from sintonia import catalog


@pytest.mark.parametrize(
    ("asked", "shown"),
    [
        ("gpt-3.5-turbo", "gpt-3.5-turbo-0125"),
        ("gpt-3.5-turbo-1106", "gpt-3.5-turbo-1106"),
        ("gpt-4o-mini", "gpt-4o-mini-2024-07-18"),
        ("gpt-4o", "gpt-4o-2024-08-06"),
        ("gpt-4.1-nano", "gpt-4.1-nano-2025-04-14"),
        ("gpt-4", "gpt-4-0613"),
        ("gpt-4-turbo", "gpt-4-turbo"),
        ("gpt-5", "gpt-5-2025-08-07"),
        ("o3", "o3-2025-04-16"),
        ("o3-2025-04-16", "o3-2025-04-16"),
        ("o4-mini", "o4-mini-2025-04-16"),
        ("gpt-35-turbo", "gpt-35-turbo-0125"),
        ("gpt-35-turbo-0613", "gpt-35-turbo-0613"),
        ("babbage-002", "babbage-002"),
        ("davinci-002", "davinci-002"),
    ],
)
def test_openais_names_stand_for_the_embedded_model_and_show_their_snapshot(asked, shown):
    resolved = catalog.load().resolve(asked)
    assert (resolved.shown, resolved.base) == (shown, "smollm2-135m-instruct")


def test_a_name_that_is_no_alias_stands_for_itself():
    assert catalog.load().resolve("mine").base == "mine"
    assert catalog.load().resolve("babbage-002x").base == "babbage-002x"
    assert catalog.load().resolve("o30b-mine").base == "o30b-mine"


def test_an_operator_repoints_an_alias_and_the_snapshot_stays():
    resolved = catalog.load({"gpt-4o-mini*": "mine"}).resolve("gpt-4o-mini")
    assert (resolved.shown, resolved.base) == ("gpt-4o-mini-2024-07-18", "mine")
    assert catalog.load({"gpt-4o-mini*": "mine"}).resolve("gpt-4o").base == "smollm2-135m-instruct"


def test_an_exact_alias_beats_a_longer_looking_prefix():
    aliases = catalog.load({"gpt-4o-mini": "exact", "gpt-4o-min*": "prefix"})
    assert aliases.resolve("gpt-4o-mini").base == "exact"
    assert aliases.resolve("gpt-4o-mini-2024-07-18").base == "smollm2-135m-instruct"


def test_every_alias_points_to_an_entry():
    loaded = catalog.load()
    assert {alias.target for alias in loaded.aliases} <= set(loaded.entries)
