# SPDX-License-Identifier: MIT
"""Bars as SVG, the same bytes for the same figures. Bars in a document need no library that draws."""

from __future__ import annotations

from dataclasses import dataclass

import jinja2

from .results import Result

_LEFT, _BAR, _GAP, _WIDTH, _VALUE = 240, 18, 8, 420, 90
_SVG = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string("""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {{ width }} {{ height }}" font-family="sans-serif" font-size="13">
<!-- made by flip-bench; SPDX-License-Identifier: MIT -->
<rect width="{{ width }}" height="{{ height }}" fill="#ffffff"/>
<text x="10" y="20" font-weight="bold">{{ title }}</text>
{% for bar in bars %}
<text x="{{ left - 8 }}" y="{{ bar.y + 14 }}" text-anchor="end">{{ bar.label }}</text>
{% for part in bar.parts %}
<rect x="{{ part.x }}" y="{{ bar.y }}" width="{{ part.width }}" height="{{ size }}" fill="{{ part.colour }}"/>
{% endfor %}
<text x="{{ bar.end + 6 }}" y="{{ bar.y + 14 }}">{{ bar.value }}</text>
{% endfor %}
{% for key in keys %}
<rect x="{{ key.x }}" y="{{ height - 24 }}" width="12" height="12" fill="{{ key.colour }}"/>
<text x="{{ key.x + 18 }}" y="{{ height - 13 }}">{{ key.label }}</text>
{% endfor %}
</svg>
""")
COLOURS = ("#2060a0", "#e0a030", "#70a050")


@dataclass(frozen=True)
class Bar:
    """A labelled bar of parts, one after the other."""

    label: str
    parts: tuple[float, ...]


def bars(title: str, keys: tuple[str, ...], rows: list[Bar], digits: int) -> str:
    """An SVG of horizontal bars, each with the sum of its parts."""
    longest = max((sum(row.parts) for row in rows), default=0) or 1
    drawn = []
    for number, row in enumerate(rows):
        x, parts = float(_LEFT), []
        for value, colour in zip(row.parts, COLOURS, strict=False):
            width = round(value / longest * _WIDTH, 1)
            parts.append({"x": round(x, 1), "width": width, "colour": colour})
            x += width
        drawn.append(
            {
                "label": row.label,
                "y": 36 + number * (_BAR + _GAP),
                "parts": parts,
                "end": round(x, 1),
                "value": f"{sum(row.parts):.{digits}f}",
            }
        )
    return _SVG.render(
        title=title,
        width=_LEFT + _WIDTH + _VALUE,
        height=36 + len(rows) * (_BAR + _GAP) + 36,
        left=_LEFT,
        size=_BAR,
        bars=drawn,
        keys=[
            {"x": _LEFT + n * 150, "label": key, "colour": colour}
            for n, (key, colour) in enumerate(zip(keys, COLOURS, strict=False))
        ],
    )


def plots(results: list[Result]) -> dict[str, str]:
    """File name -> SVG."""
    costs = [
        Bar(result.row.name, (result.figures.worker, result.figures.supervisor, result.figures.kernel))
        for result in results
    ]
    latencies = [
        bar
        for result in results
        if result.seen.local
        for bar in (
            Bar(result.row.name, (result.figures.latency,)),
            Bar("a local client", (0.0, result.figures.local)),
        )
    ]
    return {
        "flip-cost.svg": bars("Millions of instructions a flip", ("worker", "supervisor", "kernel threads"), costs, 3),
        "flip-latency.svg": bars("Milliseconds from a flip to its event", ("DomU", "local client"), latencies, 2),
    }
