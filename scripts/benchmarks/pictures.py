"""Line charts as SVG, both axes logarithmic."""

from collections.abc import Mapping, Sequence
from html import escape
from math import ceil, floor, log10

WIDTH, HEIGHT = 720, 420
LEFT, RIGHT, TOP, BOTTOM = 70, 160, 40, 50
COLOURS = ("#888888", "#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b")

Points = Sequence[tuple[float, float]]


def chart(title: str, x_label: str, lines: Mapping[str, Points]) -> str:
    """A chart with one line per name; values that are not positive are drawn at one."""
    curves = {
        name: [(log10(x) if x > 0 else 0, log10(y) if y > 0 else 0) for x, y in sorted(points)]
        for name, points in lines.items()
    }
    x_ticks = _decade_ticks([x for points in curves.values() for x, _ in points])
    y_ticks = _decade_ticks([y for points in curves.values() for _, y in points])

    def at(x: float, y: float) -> tuple[float, float]:
        right = (x - x_ticks[0]) / (x_ticks[-1] - x_ticks[0])
        up = (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return (
            round(LEFT + right * (WIDTH - LEFT - RIGHT), 1),
            round(HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM), 1),
        )

    parts = [text(LEFT, 22, title, "start"), text(LEFT, HEIGHT - 10, x_label, "start")]
    for tick in x_ticks:
        x, y = at(tick, y_ticks[0])
        parts += [line(x, y, *at(tick, y_ticks[-1])), text(x, y + 18, f"{10**tick:,}", "middle")]
    for tick in y_ticks:
        x, y = at(x_ticks[0], tick)
        parts += [line(x, y, *at(x_ticks[-1], tick)), text(x - 6, y + 4, f"{10**tick:,}", "end")]
    for number, (name, points) in enumerate(curves.items()):
        colour = COLOURS[number % len(COLOURS)]
        path = " ".join(f"{x},{y}" for x, y in (at(*point) for point in points))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(text(WIDTH - RIGHT + 12, TOP + 18 * number, name, "start", colour))
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'font-family="sans-serif" font-size="13">\n'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>\n{body}\n</svg>\n'
    )


def _decade_ticks(logs: Sequence[float]) -> list[int]:
    first = floor(min(logs))
    return list(range(first, max(ceil(max(logs)), first + 1) + 1))


def line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<path d="M{x1} {y1}L{x2} {y2}" stroke="#dddddd"/>'


def text(x: float, y: float, text: str, anchor: str, colour: str = "#222222") -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="{colour}">{escape(text)}</text>'
