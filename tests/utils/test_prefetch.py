import threading
from contextlib import closing

import pytest

from qalib.utils.prefetch import prefetch


def workers():
    return [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def test_order_and_bound():
    """Of a hundred items no more than one is made ahead of what was asked for."""
    made, ahead = [], []

    def items():
        for number in range(100):
            made.append(number)
            yield number

    found = []
    for number in prefetch(items()):
        ahead.append(len(made) - len(found))
        found.append(number)
    assert found == list(range(100)) and max(ahead) <= 2 and not workers()
    assert list(prefetch([])) == []


def test_the_next_is_made_while_the_present_is_in_use():
    second = threading.Event()

    def items():
        yield 1
        second.set()
        yield 2

    with closing(prefetch(items())) as found:
        assert next(found) == 1
        assert second.wait(60)  # without asking for it


def test_an_error_comes_where_its_item_would():
    def items():
        yield 1
        yield 2
        raise ZeroDivisionError("in the thread")

    seen = []
    with pytest.raises(ZeroDivisionError, match="in the thread"):
        for number in prefetch(items()):
            seen.append(number)
    assert seen == [1, 2] and not workers()


def test_a_loop_that_ends_early_ends_the_thread_and_the_source():
    made, closed = [], []

    def items():
        try:
            for number in range(100):
                made.append(number)
                yield number
        finally:
            closed.append(True)

    with pytest.raises(KeyError), closing(prefetch(items())) as found:
        for _ in found:
            raise KeyError
    assert not workers() and len(made) <= 2
    del found
    assert closed == [True]
