"""Line charts with linear axes, one above the other, as SVG."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scripts.benchmarks.pictures import COLOURS, Points, line, text

WIDTH, HEIGHT = 720, 200
LEFT, RIGHT, TOP, GAP = 60, 130, 40, 50


@dataclass(frozen=True)
class Panel:
    """A chart: its label, the range of its axis, the distance of ticks, and a line per name."""

    label: str
    range: tuple[float, float]
    step: float
    lines: Mapping[str, Points]


def panels(title: str, x_label: str, *charts: Panel) -> str:
    """Charts over the same integers."""
    xs = sorted({int(x) for chart in charts for points in chart.lines.values() for x, _ in points})
    height = TOP + len(charts) * (HEIGHT + GAP) + 10
    parts = [text(LEFT - 40, 22, title, "start")]
    for place, chart in enumerate(charts):
        parts += _chart(chart, xs, TOP + place * (HEIGHT + GAP) + 20)
    parts.append(text(WIDTH - RIGHT, height - 8, x_label, "end"))
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'font-family="sans-serif" font-size="13">\n'
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>\n{body}\n</svg>\n'
    )


def _chart(chart: Panel, xs: Sequence[int], top: float) -> list[str]:
    low, high = chart.range
    bottom = top + HEIGHT - 30

    def at(x: float, y: float) -> tuple[float, float]:
        right = LEFT + (x - xs[0]) / (xs[-1] - xs[0]) * (WIDTH - LEFT - RIGHT)
        up = (min(high, max(low, y)) - low) / (high - low) * (bottom - top)
        return round(right, 1), round(bottom - up, 1)

    parts = [text(LEFT, top - 8, chart.label, "start")]
    for x in xs:
        parts.append(line(*at(x, low), *at(x, high)))
        parts.append(text(at(x, low)[0], bottom + 18, str(x), "middle"))
    for number in range(round((high - low) / chart.step) + 1):
        y = low + number * chart.step
        parts.append(line(*at(xs[0], y), *at(xs[-1], y)))
        parts.append(text(LEFT - 8, at(xs[0], y)[1] + 4, f"{y:.4g}", "end"))
    for number, (name, points) in enumerate(chart.lines.items()):
        colour = COLOURS[1 + number]
        path = " ".join(f"{x},{y}" for x, y in (at(*point) for point in points))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [
            f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>'
            for x, y in (at(*point) for point in points)
        ]
        parts.append(text(WIDTH - RIGHT + 12, top + 10 + 18 * number, name, "start", colour))
    return parts
