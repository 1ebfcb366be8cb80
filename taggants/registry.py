"""The table behind every extension point: what can be chosen by name, defined in one place and read everywhere.

Statistics, key families, layouts, objectives, recipes and model sources are entries of such tables. The configuration, the
registration, certificates and help read the tables, so an entry that is added from outside, by a module that `plugins` names,
works in all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeVar

from taggants.errors import InputError

Entry = TypeVar("Entry")


class Registry(Mapping[str, Entry]):
    """Entries by name, in the order in which they were registered.

    Args:
        kind: what an entry is, as an error sentence names it, such as "statistic".
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, Entry] = {}

    def register(self, name: str, entry: Entry) -> Entry:
        """Returns the entry, which `name` means from now on.

        Raises:
            InputError: the name is taken by another entry, or is not 1 to 50 letters, digits, - and _.
        """
        if not 1 <= len(name) <= 50 or not all(c.isascii() and (c.isalnum() or c in "-_") for c in name):
            raise InputError(f"{self.kind} name {name!r} must be 1 to 50 letters, digits, - and _; choose another name")
        if self._entries.setdefault(name, entry) != entry:
            raise InputError(f"{self.kind} {name!r} already exists; register yours under another name")
        return entry

    def find(self, name: str) -> Entry:
        """Returns the entry of that name.

        Raises:
            InputError: there is none; the sentence lists the names.
        """
        if name not in self._entries:
            raise InputError(f"{self.kind} {name!r} does not exist; use one of {', '.join(self._entries)}")
        return self._entries[name]

    def __getitem__(self, name: str) -> Entry:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
