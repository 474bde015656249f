"""A card's numbers: the same thing in several units, or over several denominators."""

from qalib.report.plots.style import BLUE, GREEN, INK, ORANGE, PURPLE
from qalib.teaching.lessons.boards import Board, board, large


@large
def plot_units(rows: dict[str, tuple[float, str]], title: str, label: str) -> Board:
    """The same thing in several units or over several denominators: value and unit by name; `label` says what it is."""
    figure, axes = board(1.5 + 0.55 * len(rows))
    values = [value for value, _ in rows.values()]
    bars = axes.barh(list(rows), values, 0.6, color=[BLUE, ORANGE, GREEN, PURPLE][: len(rows)], edgecolor=INK)
    axes.bar_label(bars, labels=[f"{value:,.1f} {unit}" for value, unit in rows.values()], padding=5)
    axes.set(xlim=(0, 1.25 * max(values)), xlabel=label)
    axes.invert_yaxis()
    axes.set_title(title)
    return figure
