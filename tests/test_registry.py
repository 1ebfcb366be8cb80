from __future__ import annotations

import pytest

from taggants.errors import InputError
from taggants.registry import Registry


def test_entries_are_found_by_name_in_their_order():
    table: Registry[int] = Registry("number")
    assert table.register("two", 2) == 2
    table.register("one", 1)
    assert list(table.items()) == [("two", 2), ("one", 1)]
    assert table.find("one") == 1


def test_an_unknown_name_is_bad_input_that_lists_the_known():
    table: Registry[int] = Registry("number")
    table.register("one", 1)
    table.register("two", 2)
    with pytest.raises(InputError, match=r"number 'three' does not exist; use one of one, two"):
        table.find("three")


def test_a_name_is_never_given_to_another_entry():
    table: Registry[int] = Registry("number")
    table.register("one", 1)
    table.register("one", 1)  # a plugin that is imported twice
    with pytest.raises(InputError, match="already exists"):
        table.register("one", 11)
    assert table["one"] == 1


@pytest.mark.parametrize("name", ["", "a b", "a.b", "x" * 51, "\u00e9"])
def test_names_are_plain(name):
    with pytest.raises(InputError, match="choose another name"):
        Registry[int]("number").register(name, 1)
