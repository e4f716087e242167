"""One self-contained page: tables and pictures as inline SVG and CSS, light or dark as the reader's system is, nothing loaded.

Every text is escaped where it enters; what these functions give is markup.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from math import ceil, floor, isfinite, log10

#: Size of a picture, and of the room around what it draws.
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 490, 230, 70, 12, 10, 40

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2733; --dim: #5c6976; --line: #d5dbe1; --paper: #ffffff; --soft: #f3f5f7;
  --c0: #2f6db5; --c1: #d9822b; --c2: #2e8b57; --c3: #8a5fb0; --c4: #7d8790; --heat: #1f5fae; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e9ee; --dim: #9aa7b4; --line: #3a4552; --paper: #14191f;
  --soft: #1d242c; --c0: #6aa5e8; --c1: #f0a659; --c2: #63bd88; --c3: #b795d8; --c4: #98a3ad; --heat: #6aa5e8; } }
body { font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 0 auto; max-width: 1080px;
  padding: 24px 20px 60px; }
h1 { font-size: 1.5em; margin: 0 0 4px; overflow-wrap: anywhere; } h2 { font-size: 1.15em; margin: 34px 0 8px; }
p { margin: 4px 0; color: var(--dim); overflow-wrap: anywhere; }
.wide { overflow-x: auto; } .wide, .facts { margin: 0 0 12px; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 3px 12px; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--dim); font-weight: 500; } th:first-child, td:first-child { text-align: left; }
td:last-child { white-space: normal; } .facts td { text-align: left; overflow-wrap: anywhere; } tbody tr:nth-child(even) { background: var(--soft); }
figure { margin: 10px 24px 10px 0; display: inline-block; max-width: 100%; vertical-align: top; }
figcaption { color: var(--dim); font-size: 0.9em; } svg { max-width: 100%; height: auto; }
svg text { font: 12px system-ui, sans-serif; fill: var(--dim); } svg .grid { stroke: var(--line); stroke-width: 1; }
.key { display: inline-block; width: 0.8em; height: 0.8em; margin: 0 0.35em 0 0.9em; }
"""


def page(title: str, subtitle: str, sections: Iterable[str]) -> str:
    """The whole page.

    Parameters
    ----------
    title, subtitle : str
    sections : iterable of str
        Markup, as the other functions give it.
    """
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{escape(title)}</h1>\n"
        f"<p>{escape(subtitle)}</p>\n{''.join(sections)}</body>\n</html>\n"
    )


def section(title: str, *content: str) -> str:
    """A heading, and what stands under it; nothing where there is nothing."""
    held = "".join(content)
    return f"<h2>{escape(title)}</h2>\n{held}" if held else ""


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table under a header, or, where that is empty, of names and what they are; nothing without rows."""
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>\n" for row in rows)
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    top = f"<thead><tr>{head}</tr></thead>\n" if header else ""
    kind = "wide" if header else "facts"
    return f'<div class="{kind}"><table>{top}<tbody>\n{body}</tbody></table></div>\n' if body else ""


def lines(caption: str, x: str, y: str, series: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Curves through points, on axes with these labels; nothing without points."""
    known = {name: [p for p in points if isfinite(p[0]) and isfinite(p[1])] for name, points in series.items()}
    known = {name: points for name, points in known.items() if points}
    if not known:
        return ""
    every = [p for points in known.values() for p in points]
    across = _Axis([p[0] for p in every], LEFT, WIDTH - RIGHT)
    up = _Axis([p[1] for p in every], HEIGHT - BOTTOM, TOP)
    drawn = _axes(across, up, x, y)
    for i, points in enumerate(known.values()):
        places = [(across(a), up(b)) for a, b in points]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in places)
        drawn += f'<polyline points="{path}" fill="none" stroke="{_colour(i)}" stroke-width="2"/>'
        if len(places) <= 40:
            drawn += "".join(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="2.5" fill="{_colour(i)}"/>' for a, b in places)
    return _figure(caption, drawn, list(known))


def columns(caption: str, x: str, y: str, values: Sequence[float], first: int = 1) -> str:
    """A column for each value, counted from `first`; nothing without values."""
    if not values:
        return ""
    across = _Axis([first - 0.5, first + len(values) - 0.5], LEFT, WIDTH - RIGHT, exact=True)
    up = _Axis([0, *values], HEIGHT - BOTTOM, TOP)
    wide = max(0.5, 0.85 * (across(1) - across(0)))
    drawn = _axes(across, up, x, y)
    for i, value in enumerate(values):
        low, high = up(0), up(value)
        drawn += (
            f'<rect x="{across(first + i) - wide / 2:.1f}" y="{high:.1f}" width="{wide:.1f}" height="{low - high:.1f}" '
            f'fill="{_colour(0)}"><title>{first + i}: {number(value)}</title></rect>'
        )
    return _figure(caption, drawn, [])


def bars(caption: str, unit: str, rows: Mapping[str, Sequence[float]], kinds: Sequence[str] = ()) -> str:
    """A bar for each row, in pieces where there are several kinds; nothing without rows."""
    if not rows:
        return ""
    most = max(sum(values) for values in rows.values()) or 1.0
    left = min(300, 24 + 7 * max(map(len, rows)))
    scale, drawn = (WIDTH - left - 90) / most, ""
    for i, (name, values) in enumerate(rows.items()):
        at, middle = float(left), 22 * i + 11
        shown = name if len(name) <= 40 else f"{name[:39]}…"
        drawn += f'<text x="{left - 8}" y="{middle + 4}" text-anchor="end">{escape(shown)}</text>'
        for j, value in enumerate(values):
            wide = value * scale
            kind = f"{kinds[j]}: " if kinds else ""
            said = escape(f"{kind}{number(value)} {unit}")
            drawn += f'<rect x="{at:.1f}" y="{22 * i + 2}" width="{wide:.1f}" height="18" fill="{_colour(j)}"><title>{said}</title></rect>'
            at += wide
        drawn += f'<text x="{at + 6:.1f}" y="{middle + 4}">{escape(f"{number(sum(values))} {unit}")}</text>'
    return _figure(caption, drawn, kinds, height=22 * len(rows) + 4)


def heat(caption: str, x: str, y: str, matrix: Sequence[Sequence[float]]) -> str:
    """A cell for each number of a matrix, darker where it is larger; nothing where all are zero."""
    most = max((value for row in matrix for value in row), default=0)
    if not most:
        return ""
    cell = max(2.0, min(28.0, 300 / len(matrix)))
    side, drawn = cell * len(matrix), ""
    for i, row in enumerate(matrix):
        for j, value in enumerate(row):
            if value:
                drawn += (
                    f'<rect x="{LEFT + cell * j:.1f}" y="{TOP + cell * i:.1f}" width="{cell:.1f}" height="{cell:.1f}" '
                    f'fill="var(--heat)" fill-opacity="{0.08 + 0.92 * value / most:.3f}"><title>{i} to {j}: {number(value)}</title></rect>'
                )
    step = max(1, ceil(len(matrix) / 8))
    for i in range(0, len(matrix), step):
        middle = cell * (i + 0.5)
        drawn += f'<text x="{LEFT - 8}" y="{TOP + middle + 4:.1f}" text-anchor="end">{i}</text>'
        drawn += f'<text x="{LEFT + middle:.1f}" y="{TOP + side + 15:.1f}" text-anchor="middle">{i}</text>'
    drawn += f'<rect x="{LEFT}" y="{TOP}" width="{side:.1f}" height="{side:.1f}" fill="none" class="grid"/>'
    drawn += _labels(x, y, LEFT + side / 2, TOP + side + 32, TOP + side / 2)
    return _figure(
        f"{caption}; at most {number(most)}", drawn, [], width=int(LEFT + side + 20), height=int(TOP + side + 40)
    )


def number(value: float) -> str:
    """A number for people: "12", "1,234", "0.00123", "4.56 M"."""
    for unit, name in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if abs(value) >= unit:
            return f"{value / unit:,.3g} {name}"
    if value == int(value):
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


# -- how


class _Axis:
    """From values to places on the page."""

    def __init__(self, values: Sequence[float], start: float, end: float, exact: bool = False) -> None:
        low, high = min(values), max(values)
        if low == high:
            low, high = low - 0.5, high + 0.5
        step = 10 ** floor(log10((high - low) / 4))
        step *= next(f for f in (1, 2, 5, 10) if (high - low) / (step * f) <= 6)
        if not exact:
            low, high = floor(low / step) * step, ceil(high / step) * step
        self._low, self._start, self._scale = low, start, (end - start) / (high - low)
        first = ceil(low / step - 1e-9)
        self.ticks = [i * step for i in range(first, floor(high / step + 1e-9) + 1)]

    def __call__(self, value: float) -> float:
        return self._start + (value - self._low) * self._scale


def _axes(across: _Axis, up: _Axis, x: str, y: str) -> str:
    drawn = ""
    for tick in up.ticks:
        at = up(tick)
        drawn += f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>'
        drawn += f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{number(round(tick, 12))}</text>'
    for tick in across.ticks:
        drawn += f'<text x="{across(tick):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{number(round(tick, 12))}</text>'
    return drawn + _labels(x, y, (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, (TOP + HEIGHT - BOTTOM) / 2)


def _labels(x: str, y: str, middle: float, bottom: float, height: float) -> str:
    return (
        f'<text x="{middle:.1f}" y="{bottom:.1f}" text-anchor="middle">{escape(x)}</text>'
        f'<text transform="translate(14 {height:.1f}) rotate(-90)" text-anchor="middle">{escape(y)}</text>'
    )


def _figure(caption: str, drawn: str, names: Sequence[str], width: int = WIDTH, height: int = HEIGHT) -> str:
    keys = "".join(
        f'<span class="key" style="background: {_colour(i)}"></span>{escape(name)}' for i, name in enumerate(names)
    )
    return (
        f'<figure><figcaption>{escape(caption)}{keys}</figcaption>\n<svg width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" role="img" aria-label="{escape(caption)}">{drawn}</svg></figure>\n'
    )


def _colour(i: int) -> str:
    return f"var(--c{i % 5})"
