"""Charts as SVG, readable on light and dark pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

_WIDTH = 760
_LABEL = 270
_ROW = 26
_TOP = 44
_STYLE = """
text { font: 13px system-ui, sans-serif; fill: #24292f }
.title { font-weight: 600 }
.small { font-size: 11px }
.ours { fill: #1f6feb; stroke: #1f6feb } .peer { fill: #8c959f; stroke: #8c959f }
.bar { stroke: none } .line { fill: none; stroke-width: 2 }
.tick { stroke: #cf222e; stroke-width: 2 } .grid { stroke: #d0d7de }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .grid { stroke: #3d444d }
  .ours { fill: #58a6ff; stroke: #58a6ff } .tick { stroke: #ff7b72 }
}
"""


@dataclass(frozen=True)
class Bar:
    """A bar.

    Attributes:
        label: What it is.
        value: How long it is.
        text: The value as people read it.
        is_ours: Whether it is ours, or a peer's.
        mark: Where a goal is, if there is one.
    """

    label: str
    value: float
    text: str
    is_ours: bool
    mark: float | None = None


def draw_bars(title: str, bars: Sequence[Bar]) -> str:
    """Horizontal bars, one below the other, on one scale from zero."""
    longest = max(max(bar.value, bar.mark or 0) for bar in bars)
    scale = (_WIDTH - _LABEL - 90) / longest
    parts = []
    for n, bar in enumerate(bars):
        y = _TOP + n * _ROW
        end = _LABEL + bar.value * scale
        parts.append(_text(_LABEL - 8, y + 14, bar.label, anchor="end"))
        kind = "ours" if bar.is_ours else "peer"
        parts.append(
            f'<rect class="bar {kind}" x="{_LABEL}" y="{y + 2}" '
            f'width="{max(end - _LABEL, 1):.1f}" height="{_ROW - 10}" rx="2"/>'
        )
        at = end
        if bar.mark is not None:
            x = _LABEL + bar.mark * scale
            at = max(end, x)
            parts.append(f'<path class="tick" d="M{x:.1f} {y - 1}v{_ROW - 4}"/>')
        parts.append(_text(at + 6, y + 14, bar.text))
    return _picture(title, _TOP + len(bars) * _ROW + 8, parts)


def draw_lines(title: str, lines: Mapping[str, Sequence[float]], mark: float, note: str) -> str:
    """Rates over the seconds; the first line is ours, and ``mark`` is where something happens."""
    height, left, right = 240, 60, _WIDTH - 20
    top, bottom = _TOP + 10, _TOP + height
    seconds = max(len(values) for values in lines.values())
    highest = max(max(values) for values in lines.values())
    x_scale, y_scale = (right - left) / max(seconds - 1, 1), (bottom - top) / highest
    parts = []
    for share in (0, 0.5, 1):
        y = bottom - share * highest * y_scale
        parts.append(f'<path class="grid" d="M{left} {y:.1f}H{right}"/>')
        parts.append(_text(left - 6, y + 4, f"{share * highest:,.0f}", "end", "small"))
    for second in range(0, seconds, 10):
        parts.append(_text(left + second * x_scale, bottom + 18, f"{second} s", "middle", "small"))
    x = left + mark * x_scale
    parts.append(f'<path class="tick" d="M{x:.1f} {top}V{bottom}"/>')
    parts.append(_text(x + 6, top + 10, note, kind="small"))
    for n, (name, values) in enumerate(lines.items()):
        kind = "peer" if n else "ours"
        points = " ".join(
            f"{left + second * x_scale:.1f},{bottom - value * y_scale:.1f}"
            for second, value in enumerate(values)
        )
        parts.append(f'<polyline class="line {kind}" points="{points}" style="fill: none"/>')
        parts.append(
            f'<rect class="bar {kind}" x="{left + 220 * n}" y="{bottom + 30}" '
            'width="12" height="12"/>'
        )
        parts.append(_text(left + 220 * n + 18, bottom + 41, f"{name}, a second"))
    return _picture(title, bottom + 54, parts)


def _text(x: float, y: float, text: str, anchor: str = "start", kind: str = "") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">{escape(text)}</text>'
    )


def _picture(title: str, height: int, parts: Sequence[str]) -> str:
    name = escape(title)
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
            f'width="{_WIDTH}" role="img" aria-label="{name}">',
            f"<style>{_STYLE}</style>",
            _text(8, 24, title, kind="title"),
            *parts,
            "</svg>\n",
        )
    )
