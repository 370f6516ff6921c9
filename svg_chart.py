"""A chart (run_curves.py) -> inline SVG: sizes by its container, colours by the page's style sheet.

Colours are classes, c0 to c7, so that one drawing serves light and dark pages. The ranges of both axes stand
in data- attributes, from which report_page.js reads values back under the pointer.
"""

import math
from html import escape

from run_curves import HELD_OUT, Chart, Series

COLORS = 8
_WIDTH, _HEIGHT = 360, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 18, 8, 30
_TICKS = 5
# The width of the words "phase 2".
_LABEL_ROOM = 42


class _Axis:
    """A range of values and the places that they are drawn at."""

    def __init__(self, values: list[float], first: float, last: float, is_logarithmic: bool = False):
        self._is_logarithmic = is_logarithmic
        scaled = [self._scaled(value) for value in values]
        self.low, self.high = min(scaled), max(scaled)
        if self.low == self.high:
            margin = abs(self.low) * 0.1 or 1.0
            self.low, self.high = self.low - margin, self.high + margin
        self._first, self._last = first, last

    def place(self, value: float) -> float:
        share = (self._scaled(value) - self.low) / (self.high - self.low)
        return self._first + share * (self._last - self._first)

    def ticks(self) -> list[float]:
        """Round values within the range."""
        if self._is_logarithmic:
            powers = range(math.floor(self.low), math.ceil(self.high) + 1)
            rounds = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
            rounds = [value for value in rounds if self.low <= math.log10(value) <= self.high]
            if len(rounds) > 2 * _TICKS:
                rounds = [10.0**power for power in powers if self.low <= power <= self.high]
            return rounds[:: math.ceil(len(rounds) / (_TICKS + 1)) or 1]
        step = _round_step((self.high - self.low) / _TICKS)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [number * step for number in range(first, last + 1)]

    def widen(self, share: float) -> None:
        """Leave room above and below the values."""
        margin = share * (self.high - self.low)
        self.low, self.high = self.low - margin, self.high + margin

    def _scaled(self, value: float) -> float:
        return math.log10(value) if self._is_logarithmic else value


def draw(chart: Chart) -> str:
    """The chart as an <svg> element."""
    points = [point for series in chart.series for point in series.points]
    x = _Axis([0, *(place for place, _ in points)], _LEFT, _WIDTH - _RIGHT)
    y = _Axis([value for _, value in points], _HEIGHT - _BOTTOM, _TOP, chart.is_logarithmic)
    y.widen(0.04)
    title = escape(chart.title)
    ranges = " ".join(
        f'data-{name}="{value:.9g}"'
        for name, value in (
            ("left", _LEFT),
            ("right", _WIDTH - _RIGHT),
            ("top", _TOP),
            ("bottom", _HEIGHT - _BOTTOM),
            ("x-low", x.low),
            ("x-high", x.high),
            ("y-low", y.low),
            ("y-high", y.high),
            ("logarithmic", int(chart.is_logarithmic)),
        )
    )
    parts = [
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{title}" {ranges}>',
        *_grid(x, y),
        *_borders(chart, x),
        *(_curve(series, x, y) for series in chart.series),
        f'<line class="pointer" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}" x1="-9" x2="-9"/>',
        "</svg>",
    ]
    return "\n".join(parts)


def legend(series: Series) -> str:
    """A sample of a series' line, its label, and room for its value at the pointer."""
    sample = (
        f'<svg class="sample" viewBox="0 0 22 8" aria-hidden="true">'
        f'<path class="line {series.style} {_color(series.color)}" d="M1 4H21"/></svg>'
    )
    return f"<li>{sample}{escape(series.label)} <output></output></li>"


def _grid(x: _Axis, y: _Axis) -> list[str]:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    parts = []
    for value in y.ticks():
        place = f"{y.place(value):.1f}"
        parts.append(f'<path class="grid" d="M{_LEFT} {place}H{right}"/>')
        parts.append(f'<text x="{_LEFT - 5}" y="{place}" dy="4" text-anchor="end">{_number(value)}</text>')
    for value in x.ticks():
        place = f"{x.place(value):.1f}"
        parts.append(f'<path class="grid" d="M{place} {_TOP}V{bottom}"/>')
        parts.append(f'<text x="{place}" y="{bottom + 14}" text-anchor="middle">{_number(value)}</text>')
    parts.append(f'<text x="{right}" y="{_HEIGHT - 3}" text-anchor="end">updates</text>')
    return parts


def _borders(chart: Chart, x: _Axis) -> list[str]:
    parts = []
    for update, color in chart.borders:
        place = f"{x.place(update):.1f}"
        parts.append(f'<path class="border {_color(color)}" d="M{place} {_TOP}V{_HEIGHT - _BOTTOM}"/>')
        # Beside its line, on the side where there is room.
        has_room = x.place(update) < _WIDTH - _RIGHT - _LABEL_ROOM
        offset, anchor = (3, "start") if has_room else (-3, "end")
        parts.append(
            f'<text x="{x.place(update) + offset:.1f}" y="{_TOP + 9}" text-anchor="{anchor}">phase 2</text>'
        )
    return parts


def _curve(series: Series, x: _Axis, y: _Axis) -> str:
    line = "".join(
        "M" + "L".join(f"{x.place(update):.1f} {y.place(value):.1f}" for update, value in part)
        for part in series.parts
    )
    classes = f"{series.style} {_color(series.color)}"
    parts = [f'<path class="line curve {classes}" d="{line}"/>']
    # One point makes no line.
    dotted = [part for part in series.parts if series.style == HELD_OUT or len(part) == 1]
    parts += [
        f'<circle class="{classes}" cx="{x.place(update):.1f}" cy="{y.place(value):.1f}" r="2.2"/>'
        for part in dotted
        for update, value in part
    ]
    return "".join(parts)


def _color(number: int) -> str:
    return f"c{number % COLORS}"


def _round_step(least: float) -> float:
    """The smallest of 1, 2 and 5 times a power of ten that is not less."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= least * (1 - 1e-9))


def _number(value: float) -> str:
    if value and not 1e-3 <= abs(value) < 1e4:
        for limit, sign in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
            if abs(value) >= limit:
                return f"{value / limit:g}{sign}" if abs(value) < 1e12 else f"{value:.0e}"
        mantissa, _, exponent = f"{value:.2g}".partition("e")
        return f"{mantissa}e{int(exponent)}" if exponent else mantissa
    return f"{value:.4g}"
