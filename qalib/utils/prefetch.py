"""Prefetching: a thread makes the next item of a loop while the loop is busy with the present one."""

from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

Item = TypeVar("Item")
END: Any = object()


def prefetch(items: Iterable[Item]) -> Generator[Item, None, None]:
    """The items in their order, each made in a thread from when the one before it is handed out.

    So there is one in use and one made or in the making, and no more. An error in making an item is raised where that
    item would come. A loop that ends early should close the generator (`contextlib.closing`), which waits for the item
    in the making and makes no other. It pays where making and using items both leave Python (its GIL) for long.

    >>> list(prefetch(n * n for n in range(4)))
    [0, 1, 4, 9]
    """
    source = iter(items)
    with ThreadPoolExecutor(1, "prefetch") as thread:
        coming = thread.submit(next, source, END)
        while (item := coming.result()) is not END:
            coming = thread.submit(next, source, END)
            yield item
