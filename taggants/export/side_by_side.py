"""Many small pieces of waiting for storage at once, in bounded memory."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")


def map_in_order(
    function: Callable[[_Item], _Answer], items: Iterable[_Item], *, num_threads: int
) -> Iterator[_Answer]:
    """Yields: `function(item)` of each item, in their order, from several threads. Unlike `ThreadPoolExecutor.map` it
    takes items only as answers are fetched: no more than twice the threads are under way, however many there are."""
    with ThreadPoolExecutor(num_threads) as pool:
        under_way: collections.deque[Future[_Answer]] = collections.deque()
        try:
            for item in items:
                under_way.append(pool.submit(function, item))
                if len(under_way) == 2 * num_threads:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        finally:
            for future in under_way:
                future.cancel()
