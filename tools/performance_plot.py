"""Draws docs/performance.svg: times in multiples of native time, by workload and engine."""

from __future__ import annotations

import math
from xml.sax.saxutils import escape

from tools.performance_rows import Results, heading

COLOURS = ("#1b7837", "#5aae61", "#762a83", "#c2a5cf", "#b35806", "#fdb863")
ROW, LEFT, WIDTH, TOP = 16, 110, 620, 60
LEAST, MOST = 0.5, 200.0


def plot(results: Results) -> str:
    """Return the drawing. A side without a figure has no mark."""
    setting = results.settings[0]
    columns = [name for name in results.results["columns"] if name != "native"]
    rows = [
        name
        for name in results.rows
        if any(results.ratio(name, setting, column, "native") for column in columns)
    ]
    height = TOP + ROW * len(rows) + 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + 20}" height="{height}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="100%" height="{height}" fill="white"/>',
        *_axis(height),
    ]
    for index, column in enumerate(columns):
        x, colour = LEFT + index % 3 * 200, COLOURS[index % len(COLOURS)]
        y = 14 + index // 3 * 15
        parts.append(f'<circle cx="{x}" cy="{y}" r="4" fill="{colour}"/>')
        parts.append(f'<text x="{x + 8}" y="{y + 4}">{escape(heading(column))}</text>')
    for line, name in enumerate(rows):
        y = TOP + ROW * line + ROW // 2
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4}" text-anchor="end">{escape(name)}</text>')
        for index, column in enumerate(columns):
            ratio = results.ratio(name, setting, column, "native")
            if ratio:
                colour = COLOURS[index % len(COLOURS)]
                parts.append(f'<circle cx="{_x(ratio):.1f}" cy="{y}" r="4" fill="{colour}"/>')
    return "\n".join([*parts, "</svg>", ""])


def _axis(height: int) -> list[str]:
    parts = []
    for tick in (0.5, 1, 2, 5, 10, 20, 50, 100, 200):
        x, stroke = _x(tick), "#444" if tick == 1 else "#ddd"
        parts.append(
            f'<line x1="{x:.1f}" y1="{TOP - 6}" x2="{x:.1f}" y2="{height - 22}" stroke="{stroke}"/>'
        )
        label = f"{tick:g} x native"
        parts.append(f'<text x="{x:.1f}" y="{height - 8}" text-anchor="middle">{label}</text>')
    return parts


def _x(ratio: float) -> float:
    """Logarithmic; what lies outside is drawn at the edge."""
    inside = min(max(ratio, LEAST), MOST)
    return LEFT + WIDTH * math.log(inside / LEAST) / math.log(MOST / LEAST)
