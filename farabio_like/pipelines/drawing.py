"""The pictures of a page as SVG: the graph of the tasks, and curves."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

BOX_WIDTH, BOX_HEIGHT, GAP_X, GAP_Y = 168, 46, 20, 34
CURVE_WIDTH, CURVE_HEIGHT, MARGIN_LEFT, MARGIN = 340, 190, 52, 22
LONGEST_LABEL = 22  # characters


def graph(tasks: Mapping[str, Sequence[str]], texts: Mapping[str, str], states: Mapping[str, str]) -> str:
    """Return the graph of tasks, from above downwards.

    Parameters
    ----------
    tasks : mapping of str to sequence of str
        What each task depends on; those stand before it.
    texts : mapping of str to str
        The second line of each box.
    states : mapping of str to str
        The state that colours each box.
    """
    level: dict[str, int] = {}
    for name, needs in tasks.items():
        level[name] = 1 + max((level[need] for need in needs), default=-1)
    rows = [[name for name in tasks if level[name] == depth] for depth in range(max(level.values(), default=0) + 1)]
    widest = max(map(len, rows), default=1)
    width = widest * (BOX_WIDTH + GAP_X) + GAP_X
    height = len(rows) * (BOX_HEIGHT + GAP_Y) + GAP_Y // 2
    place: dict[str, tuple[float, float]] = {}
    for depth, row in enumerate(rows):
        # Below what they depend on, as far as that goes: fewer lines cross.
        row.sort(key=lambda name: sum(place[need][0] for need in tasks[name]) / max(len(tasks[name]), 1))
        left = (width - len(row) * (BOX_WIDTH + GAP_X) + GAP_X) / 2
        for index, name in enumerate(row):
            place[name] = left + index * (BOX_WIDTH + GAP_X), GAP_Y / 2 + depth * (BOX_HEIGHT + GAP_Y)
    parts = [_edge(place[need], place[name]) for name, needs in tasks.items() for need in needs]
    parts += [_box(name, *place[name], texts[name], states[name]) for name in tasks]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="graph" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" role="img" aria-label="Graph of the tasks">{STYLE}{"".join(parts)}</svg>'
    )


# In the picture itself, so that one saved alone is the same.
STYLE = """<style>
.box{fill:#f2f2f0;stroke:#8a8a85;stroke-width:1.5}.edge{fill:none;stroke:#8a8a85;stroke-width:1.5}
.Success .box{fill:#dff0e0;stroke:#2e7d32}.Failed .box{fill:#fbdcd9;stroke:#b3261e}
.InProgress .box{fill:#dbe8fb;stroke:#1a5fb4}.Queued .box{fill:#ece6f8;stroke:#6a4fa3}
.Stopped .box{fill:#fdf0d0;stroke:#9a6700}.Skipped .box{fill:#eee;stroke:#8a8a85;stroke-dasharray:4 3}
.graph text{font:600 13px system-ui,sans-serif;fill:#1c1c1a}.graph .small{font-weight:400;font-size:11px}
</style>"""


def _edge(above: tuple[float, float], below: tuple[float, float]) -> str:
    x1, y1 = above[0] + BOX_WIDTH / 2, above[1] + BOX_HEIGHT
    x2, y2 = below[0] + BOX_WIDTH / 2, below[1]
    middle = (y1 + y2) / 2
    return f'<path class="edge" d="M{x1:g} {y1:g}C{x1:g} {middle:g} {x2:g} {middle:g} {x2:g} {y2:g}"/>'


def _box(name: str, x: float, y: float, text: str, state: str) -> str:
    return (
        f'<g class="{html.escape(state)}"><title>{html.escape(f"{name}: {text}")}</title>'
        f'<rect class="box" x="{x:g}" y="{y:g}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="6"/>'
        f'<text x="{x + 10:g}" y="{y + 19:g}">{_label(name)}</text>'
        f'<text class="small" x="{x + 10:g}" y="{y + 36:g}">{_label(text, LONGEST_LABEL + 6)}</text></g>'
    )


def _label(text: str, longest: int = LONGEST_LABEL) -> str:
    return html.escape(text if len(text) <= longest else f"{text[: longest - 1]}…")


def curves(name: str, lines: Mapping[str, Sequence[tuple[float, float]]], colours: Mapping[str, str]) -> str:
    """Return the picture of one metric, a line for each job; empty where no number is finite.

    Parameters
    ----------
    name : str
    lines : mapping of str to sequence of pairs
        Epochs and values, by job.
    colours : mapping of str to str
        By job.
    """
    lines = {job: [(x, y) for x, y in line if math.isfinite(y)] for job, line in lines.items()}
    points = [point for line in lines.values() for point in line]
    if not points:
        return ""
    x0, x1 = min(x for x, _ in points), max(x for x, _ in points)
    y0, y1 = min(y for _, y in points), max(y for _, y in points)
    y0, y1 = (y0, y1) if y1 > y0 else (y0 - 0.5, y1 + 0.5)
    across = (CURVE_WIDTH - MARGIN_LEFT - MARGIN) / ((x1 - x0) or 1)
    down = (CURVE_HEIGHT - 2 * MARGIN) / (y1 - y0)
    parts = []
    for share in (0, 0.5, 1):
        y = CURVE_HEIGHT - MARGIN - share * (CURVE_HEIGHT - 2 * MARGIN)
        parts.append(f'<path class="line" d="M{MARGIN_LEFT} {y:g}H{CURVE_WIDTH - MARGIN}"/>')
        parts.append(f'<text x="{MARGIN_LEFT - 6}" y="{y + 4:g}" text-anchor="end">{y0 + share * (y1 - y0):.3g}</text>')
    for x, anchor in ((x0, "start"), *([(x1, "end")] if x1 > x0 else [])):
        place = MARGIN_LEFT + (x - x0) * across
        parts.append(f'<text x="{place:g}" y="{CURVE_HEIGHT - 6}" text-anchor="{anchor}">{x:g}</text>')
    for job, line in lines.items():
        at = [(MARGIN_LEFT + (x - x0) * across, CURVE_HEIGHT - MARGIN - (y - y0) * down) for x, y in line]
        title = f"<title>{html.escape(job)}</title>"
        if len(at) == 1:
            parts.append(f'<circle cx="{at[0][0]:g}" cy="{at[0][1]:g}" r="3" fill="{colours[job]}">{title}</circle>')
        else:
            path = "L".join(f"{x:.1f} {y:.1f}" for x, y in at)
            parts.append(f'<path class="curve" stroke="{colours[job]}" d="M{path}">{title}</path>')
    return (
        f'<figure><figcaption>{html.escape(name)}</figcaption><svg class="curves" viewBox="0 0 {CURVE_WIDTH} '
        f'{CURVE_HEIGHT}" role="img" aria-label="{html.escape(name)} by epoch">{"".join(parts)}</svg></figure>'
    )
