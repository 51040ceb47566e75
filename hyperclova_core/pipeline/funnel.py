"""The funnel of a run: documents and bytes by stage, and why each left, as a table and as an SVG figure."""

from __future__ import annotations

from html import escape
from typing import Any

from hyperclova_core.foundation.warehouse import RunFolder
from hyperclova_core.pipeline.graph import CORPUS_STAGES
from hyperclova_core.pipeline.summary import rest_in_words

KEPT = "#4c8bbf"
REASONS = ("#e07b39", "#c94f4f", "#b58900", "#8e6bb0", "#5f9e6e", "#a05a7c", "#6b7f99", "#d4a373")
STAGES = (*CORPUS_STAGES, "mix")
LEFT, BAR, GAP, ROW = 120, 330, 40, 64


def funnel_of(run: RunFolder) -> list[dict[str, Any]]:
    """One row a stage that takes documents away: in, kept, and for each reason documents and bytes."""
    rows = []
    for stage in STAGES:
        result = run.stage_result(stage)
        if result is None:
            continue
        counters = result.counters
        lost: list[dict[str, Any]] = []
        for label, numbers, sizes in (
            ("", counters.rejected, counters.rejected_bytes),
            ("quarantined: ", counters.quarantined, counters.quarantined_bytes),
        ):
            for reason, number in numbers.items():
                lost.append({"reason": f"{label}{reason}", "documents": number, "bytes": sizes.get(reason)})
        rows.append(
            {
                "stage": stage,
                "documents_in": counters.rows_in,
                "documents_kept": counters.kept,
                "bytes_in": counters.text_bytes_in,
                "bytes_kept": counters.text_bytes_kept,
                "lost": sorted(lost, key=lambda item: (-item["documents"], item["reason"])),
            }
        )
    return rows


def funnel_svg(rows: list[dict[str, Any]], title: str) -> str:
    """Two bars a stage, documents and bytes of text, each as long as its share of what first came in."""
    width, height = LEFT + 2 * (BAR + GAP) + 20, 60 + ROW * max(1, len(rows))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        ' font-family="system-ui,sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/><text x="12" y="22" font-size="15">{escape(title)}</text>',
        f'<text x="{LEFT}" y="46" fill="#666">documents</text>',
        f'<text x="{LEFT + BAR + GAP}" y="46" fill="#666">bytes of text</text>',
    ]
    most = {"documents": 1, "bytes": 1}
    for row in rows:
        most = {unit: max(most[unit], row[f"{unit}_in"]) for unit in most}
    for number, row in enumerate(rows):
        y = 56 + number * ROW
        parts.append(f'<text x="12" y="{y + 18}">{escape(row["stage"])}</text>')
        for column, unit in enumerate(("documents", "bytes")):
            parts.extend(_bar(row, unit, LEFT + column * (BAR + GAP), y, BAR / most[unit]))
    return "".join(parts) + "</svg>\n"


def _bar(row: dict[str, Any], unit: str, x: float, y: float, scale: float) -> list[str]:
    kept = row[f"{unit}_kept"]
    parts = [_piece(x, y, kept * scale, KEPT, f"kept {kept:,}")]
    position = x + kept * scale
    words = []
    for number, item in enumerate(row["lost"]):
        amount = item[unit]
        if amount is None:
            continue
        colour = REASONS[number % len(REASONS)]
        parts.append(_piece(position, y, amount * scale, colour, f"{item['reason']} {amount:,}"))
        position += amount * scale
        words.append(f'<tspan fill="{colour}">■</tspan> {escape(item["reason"])} {amount:,}')
    parts.append(f'<text x="{x}" y="{y + 38}">{kept:,} kept of {row[f"{unit}_in"]:,}</text>')
    if words:
        more = rest_in_words([(item["reason"], item["documents"]) for item in row["lost"]][2:])
        parts.append(f'<text x="{x}" y="{y + 53}" fill="#444" font-size="11">{"  ".join(words[:2])}{more}</text>')
    return parts


def _piece(x: float, y: float, width: float, colour: str, title: str) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y}" width="{max(width, 0):.1f}" height="22" fill="{colour}">'
        f"<title>{escape(title)}</title></rect>"
    )
