"""The bar of a pruning run: what it is doing, how far it has got, how fast, and how long it will take."""

import math
import sys
import time

from tqdm.auto import tqdm

from qalib.utils.errors import without_controls

REFRESH_SECONDS = 0.3  # from one drawing of the bar to the next, at least
BAR_FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"


class Progress:
    """A bar that says what a run waits for, from loading to saving; nothing is printed unless `shown`."""

    def __init__(self, shown: bool = True):
        form = {"bar_format": BAR_FORMAT, "mininterval": REFRESH_SECONDS, "miniters": 0, "dynamic_ncols": True}
        self.bar = tqdm(total=1.0, desc="starting", disable=not shown, **form)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.close()

    def say(self, what: str) -> None:
        """Say at once what comes next: it may take long."""
        self.bar.set_description_str(what)

    def note(self, text: str) -> None:
        """Print a line that stays."""
        if not self.bar.disable:
            self.bar.write(without_controls(text), file=sys.stderr)

    def begin(self, progress: float) -> None:
        """Training begins, or goes on, at `progress` (0 to 1): speed and remaining time are counted from here."""
        self.bar.reset()
        self.bar.initial = self.bar.n = self.bar.last_print_n = progress
        self.begun, self.windows, self.said, self.figured = time.monotonic(), 0, 0.0, -math.inf
        self.figures: dict[str, str] = {}

    def doing(self, what: str) -> None:
        """Say what a step is doing, unless the bar was drawn a moment ago."""
        now = time.monotonic()
        self.bar.set_description_str(what, refresh=now - self.said >= REFRESH_SECONDS)
        self.said = now

    def wants_figures(self) -> bool:
        """Whether `step` should be given figures: reading one waits for the GPU, and few are drawn."""
        return not self.bar.disable and time.monotonic() - self.figured >= REFRESH_SECONDS

    def step(self, name: str, progress: float, windows: int, **figures: str) -> None:
        """A step over so many windows is done, and the run is at `progress`. Without figures, the last ones stay."""
        if figures:
            self.figures, self.figured = figures, time.monotonic()
        self.bar.set_description_str(name, refresh=False)
        self.windows += windows
        rate = self.windows / (time.monotonic() - self.begun)
        self.bar.set_postfix({"windows/s": f"{rate:.1f}"} | self.figures, refresh=False)
        self.bar.update(progress - self.bar.n)
