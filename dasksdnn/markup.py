"""HTML for notebooks: tables and small drawings as strings, for what shows itself.

Colours come from the page: text and lines are `currentColor`, so that they are read on light and on dark, and there is no
style sheet or script, which a notebook that is not trusted would drop. Whatever is shown is escaped here, and only here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

#: Columns of a chain, colours of parts, and cells of a matrix along one side, at most: what is more is drawn together.
COLUMNS, COLOURS, CELLS = 24, 16, 32
#: Shades of a matrix.
SHADES = 8
_HEIGHT = 72
_FONT = 'font-size="10" font-family="sans-serif" fill="currentColor"'


def card(heading: str, *pieces: str) -> str:
    """A heading, and under it whatever is not empty.

    Examples
    --------
    >>> card("a < b")
    '<div><div style="font-weight:bold">a &lt; b</div></div>'
    """
    return f'<div><div style="font-weight:bold">{escape(heading)}</div>{"".join(pieces)}</div>'


def facts(rows: Mapping[str, object]) -> str:
    """A table of names and values."""
    cells = (
        f'<tr><th style="text-align:left;padding:1px 8px 1px 0">{escape(name)}</th><td style="text-align:left">{escape(str(value))}</td></tr>'
        for name, value in rows.items()
    )
    return f"<table>{''.join(cells)}</table>"


def grid(header: Sequence[str], rows: Iterable[Sequence[str]], marked: int | None = None) -> str:
    """A table under a header; the first column is words, and the row that is marked is bold."""
    align = ["left", *["right"] * (len(header) - 1)]

    def line(cells: Sequence[str], tag: str, style: str = "") -> str:
        made = (
            f'<{tag} style="text-align:{a};padding:1px 6px{style}">{escape(cell)}</{tag}>'
            for a, cell in zip(align, cells, strict=True)
        )
        return f"<tr>{''.join(made)}</tr>"

    body = (line(row, "td", ";font-weight:bold" if i == marked else "") for i, row in enumerate(rows))
    return f"<table><thead>{line(header, 'th')}</thead><tbody>{''.join(body)}</tbody></table>"


def aside(*pieces: str) -> str:
    """Pieces side by side, where there is room."""
    shown = "".join(f"<div>{piece}</div>" for piece in pieces if piece)
    return f'<div style="display:flex;flex-wrap:wrap;gap:24px;align-items:flex-start">{shown}</div>'


def chain(widths: Sequence[int], parts: Mapping[int, ArrayLike] | None = None) -> str:
    """Layers as blocks, as high as they are wide, inputs first; with parts, each block shows who owns how much of it.

    Parameters
    ----------
    widths : sequence of int
        Neurons of each layer, inputs first.
    parts : dict of int to int array of shape (nparts,), optional
        Neurons of each part in the layers of `drawn_layers`.
    """
    layers = drawn_layers(len(widths))
    most, bottom, step = max(widths), _HEIGHT + 14, 16
    marks: dict[int, list[str]] = {}
    for column, k in enumerate(layers):
        height = max(2.0, _HEIGHT * widths[k] / most)
        top = bottom - height
        shares = [widths[k]] if parts is None else _gather(np.asarray(parts[k], dtype=np.float64), COLOURS).tolist()
        for colour, share in enumerate(shares):
            high = height * share / widths[k]
            if share:
                marks.setdefault(colour, []).append(f"M{column * step} {top:.1f}h12v{high:.1f}h-12z")
            top += high
    whole = 'fill="currentColor" fill-opacity="0.35"'
    paths = "".join(
        f'<path d="{"".join(d)}" {whole if parts is None else f"fill={_quoted(colour_of(c))}"}/>'
        for c, d in sorted(marks.items())
    )
    wide = max(120, len(layers) * step)
    left = "" if len(layers) == len(widths) else f" ({len(layers)} drawn)"
    said = f"{widths[0]:,} inputs, {len(widths) - 1:,} layers{left}, {widths[-1]:,} outputs"
    wide = max(wide, 6 * len(said))
    text = f'<text x="0" y="{bottom + 14}" {_FONT}>{said}</text>'
    return _svg(wide, bottom + 18, paths + text, "layers as blocks" + (", parts as colours" if parts else ""))


def drawn_layers(count: int) -> list[int]:
    """Which of so many layers a chain draws: all, or evenly some, the first and the last among them."""
    if count <= COLUMNS:
        return list(range(count))
    return [round(i * (count - 1) / (COLUMNS - 1)) for i in range(COLUMNS)]


def matrix(values: ArrayLike, said: str) -> str:
    """Who sends how much to whom: rows send, columns receive, the darker the more; parts in groups where they are many."""
    cells = _gather(_gather(np.asarray(values, dtype=np.float64), CELLS).T, CELLS).T
    size, side = len(cells), max(3, min(20, 120 // max(1, len(cells))))
    shade = np.ceil(cells / max(float(cells.max(initial=0.0)), 1e-300) * SHADES).astype(int)
    paths = ""
    for level in range(1, SHADES + 1):
        marks = "".join(
            f"M{j * side} {i * side}h{side}v{side}h-{side}z" for i, j in np.argwhere(shade == level).tolist()
        )
        if marks:
            paths += f'<path d="{marks}" fill="{colour_of(0)}" fill-opacity="{level / SHADES:g}"/>'
    edge = size * side
    frame = f'<rect x="0" y="0" width="{edge}" height="{edge}" fill="none" stroke="currentColor" stroke-opacity="0.4"/>'
    text = f'<text x="0" y="{edge + 14}" {_FONT}>{escape(said)}</text>'
    return _svg(max(edge + 2, 6 * len(said)), edge + 18, paths + frame + text, "words sent between parts")


def stack(amounts: Mapping[str, float], said: str, most: float = 0.0) -> str:
    """Amounts end to end as one bar, and a line at the most that they may be together, where there is such a thing."""
    whole, wide = max(sum(amounts.values()), most, 1), 320
    at, bars, names = 0.0, "", ""
    for i, (name, amount) in enumerate(amounts.items()):
        width = wide * amount / whole
        bars += f'<rect x="{at:.1f}" y="2" width="{width:.1f}" height="14" fill="{colour_of(i)}"><title>{escape(name)}</title></rect>'
        x, y = 8 + 108 * (i % 3), 34 + 14 * (i // 3)
        names += f'<rect x="{x - 8}" y="{y - 8}" width="6" height="8" fill="{colour_of(i)}"/><text x="{x}" y="{y}" {_FONT}>{escape(name)}</text>'
        at += width
    limit = wide * most / whole
    line = f'<path d="M{limit:.1f} 0v18" stroke="currentColor" stroke-width="2"/>' if most else ""
    bottom = 34 + 14 * -(-len(amounts) // 3)
    text = f'<text x="0" y="{bottom}" {_FONT}>{escape(said)}</text>'
    return _svg(max(wide + 4, 6 * len(said)), bottom + 6, bars + line + names + text, said)


def named(amounts: Sequence[float], thing: str) -> dict[str, float]:
    """Amounts by name, "part 0" and so on, for `stack`; neighbours together where they are many."""
    sums = _gather(np.asarray(amounts, dtype=np.float64), COLOURS).tolist()
    starts = [i * len(amounts) // len(sums) for i in range(len(sums) + 1)]
    names = (f"{thing} {a}" if b - a == 1 else f"{thing}s {a} to {b - 1}" for a, b in pairwise(starts))
    return dict(zip(names, sums, strict=True))


def bars(tasks: Mapping[str, tuple[int, int, str]]) -> str:
    """Bars of work that is going on: done, of how much (0: not known), and in words."""
    rows = (
        f'<tr><td style="text-align:left">{escape(name)}</td><td><progress max="{total or 1}" '
        f'{f"value={_quoted(str(done))}" if total else ""}></progress></td><td style="text-align:left">{escape(said)}</td></tr>'
        for name, (done, total, said) in tasks.items()
    )
    return f"<table>{''.join(rows)}</table>"


def curves(series: Mapping[str, Sequence[float | None]], said: str) -> str:
    """Small curves over the same steps; what is None is left out."""
    known = [v for values in series.values() for v in values if v is not None and np.isfinite(v)]
    if not known:
        return ""
    wide, least, span = 240, min(known), max(max(known) - min(known), 1e-300)
    drawn, names = "", ""
    for i, (name, values) in enumerate(series.items()):
        points = " ".join(
            f"{wide * k / max(1, len(values) - 1):.1f},{4 + (_HEIGHT - 8) * (1 - (v - least) / span):.1f}"
            for k, v in enumerate(values)
            if v is not None and np.isfinite(v)
        )
        if points:
            drawn += f'<polyline points="{points}" fill="none" stroke="{colour_of(i)}" stroke-width="2"/>'
            names += f'<rect x="{120 * i}" y="{_HEIGHT + 6}" width="8" height="8" fill="{colour_of(i)}"/>'
            names += f'<text x="{12 + 120 * i}" y="{_HEIGHT + 14}" {_FONT}>{escape(name)}</text>'
    text = f'<text x="0" y="{_HEIGHT + 28}" {_FONT}>{escape(said)}</text>'
    return _svg(max(wide, 6 * len(said)), _HEIGHT + 32, drawn + names + text, said)


def colour_of(part: int) -> str:
    """The colour of a part: hues far from those before, as light as is seen on white and on black."""
    return f"hsl({(215 + part * 137.508) % 360:.0f},60%,55%)"


def _gather(values: NDArray[np.float64], most: int) -> NDArray[np.float64]:
    """Sums over groups of neighbours along the first axis, where there are more than that."""
    if len(values) <= most:
        return values
    starts = np.arange(most) * len(values) // most
    return np.add.reduceat(values, starts, axis=0)


def _quoted(text: str) -> str:
    return f'"{text}"'


def _svg(width: float, height: float, inside: str, label: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" role="img" '
        f'aria-label="{escape(label)}">{inside}</svg>'
    )
