"""Bar charts as SVG, readable on light and dark pages. matplotlib would need ten packages for rectangles."""

from collections.abc import Mapping
from pathlib import Path
from xml.sax.saxutils import escape

LABELS, BARS, NUMBERS = 190, 480, 110  # pixels across
LINE, GAP, HEAD = 20, 16, 58  # pixels down
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2328 } .head { font-weight: 600 } .note { fill: #59636e }
rect { fill: #b6bfc9 } .ours { fill: #0969da }
@media (prefers-color-scheme: dark) {
  text { fill: #f0f6fc } .note { fill: #9198a1 } rect { fill: #4d5661 } .ours { fill: #4493f8 }
}
"""


def write_chart(path: Path, title: str, note: str, groups: Mapping[str, Mapping[str, float]], unit: str) -> None:
    """Write a group of bars for each of `groups`, with a bar for each name; the first name is ours."""
    longest = max(value for bars in groups.values() for value in bars.values())
    shapes = [_text(8, 20, title, "head"), _text(8, 40, note, "note")]
    y = HEAD
    for group, bars in groups.items():
        y += LINE
        shapes.append(_text(8, y - 6, group, "head"))
        for number, (name, value) in enumerate(bars.items()):
            width = value / longest * BARS
            kind = ' class="ours"' if number == 0 else ""
            shapes.append(_text(16, y + 14, name))
            shapes.append(f'<rect{kind} x="{LABELS}" y="{y + 3}" width="{width:.1f}" height="{LINE - 6}" rx="2"/>')
            shapes.append(
                _text(LABELS + width + 6, y + 14, f"{value:.2f} {unit}" if value < 10 else f"{value:,.0f} {unit}")
            )
            y += LINE
        y += GAP
    size = f'width="{LABELS + BARS + NUMBERS}" height="{y}" viewBox="0 0 {LABELS + BARS + NUMBERS} {y}"'
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{escape(title)}">\n'
        f"<style>{STYLE}</style>\n" + "\n".join(shapes) + "\n</svg>\n"
    )


def _text(x: float, y: float, text: str, kind: str = "") -> str:
    shown = f' class="{kind}"' if kind else ""
    return f'<text{shown} x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'
