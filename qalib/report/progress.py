"""Progress of a report: which notebook is running, since when, and how long it will take.

A notebook's metadata say how long it took on another machine (`qalib.seconds`, with `qalib.machine`). The pace of the
notebooks already done turns that into an estimate for this one.
"""

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import nbformat
from tqdm import tqdm

from qalib.utils.errors import without_controls

TICK = 0.5  # seconds between updates of a bar


class Progress:
    """Shows progress on standard error: one bar per notebook in a terminal, one line per notebook elsewhere."""

    def __init__(self, notebooks: Sequence[Path]):
        self.usual = {path.stem: _usual_seconds(path) for path in notebooks}
        self.position = {path.stem: number for number, path in enumerate(notebooks, 1)}
        self.taken: dict[str, float] = {}

    @property
    def pace(self) -> float:
        """Seconds here / seconds in the metadata, over the notebooks that are done; 1 before the first."""
        pairs = [(seconds, usual) for name, seconds in self.taken.items() if (usual := self.usual[name])]
        return sum(seconds for seconds, _ in pairs) / sum(usual for _, usual in pairs) if pairs else 1.0

    def expected(self, name: str) -> float | None:
        """Seconds that a notebook is expected to take here; None if unknown."""
        usual = self.usual[name]
        return usual and usual * self.pace

    def left(self, name: str) -> float | None:
        """Seconds expected for a notebook and all after it; None if any is unknown."""
        after = [self.expected(n) for n, position in self.position.items() if position >= self.position[name]]
        known = [seconds for seconds in after if seconds is not None]
        return sum(known) if len(known) == len(after) else None

    def label(self, name: str) -> str:
        """`[2/7] 02_sparsity_analysis`."""
        return f"[{self.position[name]}/{len(self.position)}] {name}"

    def done(self, name: str, seconds: float) -> None:
        """Record how long a notebook took."""
        self.taken[name] = seconds
        say(f"{self.label(name)}: {seconds:.0f} s")

    @contextmanager
    def running(self, name: str) -> Iterator[None]:
        """Show that a notebook is running, for as long as the block runs."""
        expected, left = self.expected(name), self.left(name)
        if not sys.stderr.isatty():
            about = "" if left is None else f" (about {expected:.0f} s; {_minutes(left)} to the end of the report)"
            say(self.label(name) + about)
            yield
            return
        over = threading.Event()
        with tqdm(total=expected, desc=self.label(name), leave=False, bar_format=_form(expected)) as bar:
            after = None if left is None or expected is None else left - expected
            bar.set_postfix_str("then done" if not after else f"then {_minutes(after)} more", refresh=False)
            ticking = threading.Thread(target=_tick, args=(bar, expected, over), daemon=True)
            ticking.start()
            try:
                yield
            finally:
                over.set()
                ticking.join()


def _tick(bar: tqdm, expected: float | None, over: threading.Event) -> None:
    while not over.wait(TICK):
        elapsed = bar.format_dict["elapsed"]
        bar.n = elapsed if expected is None else min(elapsed, 0.99 * expected)  # if late, only the clock goes on
        bar.refresh()


def _form(expected: float | None) -> str:
    known = "{l_bar}{bar}| {elapsed} of about " + _minutes(expected) if expected else "{desc}: {elapsed}"
    return known + "{postfix}"


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _usual_seconds(notebook: Path) -> float | None:
    return nbformat.read(notebook, as_version=4).metadata.get("qalib", {}).get("seconds")


def say(text: str) -> None:
    """Print a line on standard error."""
    print(without_controls(text), file=sys.stderr, flush=True)
