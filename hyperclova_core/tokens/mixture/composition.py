"""What was planned beside what came out: tokens a leaf, and the composition of windows of the training order.

The order is a random permutation, so a window's share of a leaf strays from the whole's by chance alone. How far is bounded by
Bernstein's inequality, which holds for drawing without replacement (Hoeffding 1963): with n documents in a window of W tokens, y =
tokens x (in the leaf or not - its share), the sum of y strays by more than sqrt(2 n var(y) L) + 2/3 max|y| L with a chance of at
most 2 exp(-L).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape
from typing import Any

from hyperclova_core.foundation.errors import DataError

TOLERANCE = 0.001
WINDOWS = 64
GROUP = 500
"""Documents of a window at least: with fewer, chance allows almost anything."""
CHANCE = 1e-9
"""That an order which is random is refused."""


def check_composition(
    plan: Mapping[str, Any], emitted: Mapping[str, int], taken: Mapping[str, tuple[int, int]]
) -> list[dict[str, Any]]:
    """Planned and emitted training tokens a leaf.

    Args:
        taken: leaf → tokens of the documents that the mixer took, and the most that one of its documents has.

    Raises:
        DataError: other tokens came out than were taken, or these are off by more than 0.1 % of the target and by more than
            the leaf's largest document.
    """
    rows = []
    for leaf in plan["leaves"]:
        path, target = leaf["path"], leaf["target_tokens"]
        out = emitted.get(path, 0)
        rows.append(
            {
                "leaf": path,
                "source": leaf["source"],
                "planned_tokens": target,
                "emitted_tokens": out,
                "epochs": leaf["epochs"],
            }
        )
        chosen, largest = taken.get(path, (0, 0))
        if out != chosen or abs(out - target) > max(TOLERANCE * target, largest):
            raise DataError(
                "The serialized corpus is not what was planned",
                where=f"leaf {path}",
                why=f"{out:,} tokens instead of {target:,} ({chosen:,} were chosen)",
                remedy="this is a bug of the mixer or the serializer; nothing was committed",
            )
    return rows


def window_tokens(total: int) -> int:
    """Tokens of a window: a 64th of the corpus."""
    return max(1, -(-total // WINDOWS))


def check_windows(
    windows: Mapping[int, Mapping[str, int]], leaves: Mapping[str, tuple[float, float, float]], documents: int
) -> dict[str, Any]:
    """How far the composition of windows strays from the whole's, against the bound.

    Args:
        windows: window → leaf → tokens.
        leaves: leaf → tokens, sum of squared tokens, most tokens of a document.
        documents: in the whole.

    Raises:
        DataError: a window is further off than chance allows.
    """
    groups = max(1, min(WINDOWS, documents // GROUP))
    grouped: dict[int, dict[str, int]] = {}
    for number, counts in windows.items():
        group = grouped.setdefault(number * groups // WINDOWS, {})
        for name, count in counts.items():
            group[name] = group.get(name, 0) + count
    windows = grouped
    total = sum(tokens for tokens, _, _ in leaves.values())
    squares = sum(square for _, square, _ in leaves.values())
    most = max((largest for _, _, largest in leaves.values()), default=0.0)
    level = math.log(2 * max(1, len(windows)) * max(1, len(leaves)) / CHANCE)
    worst: dict[str, Any] = {"windows": len(windows), "deviation": 0.0, "bound": 1.0, "ratio": 0.0}
    for number, counts in sorted(windows.items()):
        size = sum(counts.values())
        drawn = size / total * documents
        for leaf, (tokens, square, _) in leaves.items():
            share = tokens / total
            variance = ((1 - share) ** 2 * square + share**2 * (squares - square)) / documents
            # the two documents at a window's edges may belong to either side
            bound = (math.sqrt(2 * drawn * variance * level) + (2 / 3 * level + 2) * most) / size
            deviation = abs(counts.get(leaf, 0) / size - share)
            if deviation / bound > worst["ratio"]:
                worst.update(
                    {"deviation": deviation, "bound": bound, "ratio": deviation / bound, "leaf": leaf, "window": number}
                )
    if worst["ratio"] > 1:
        raise DataError(
            "The training order is not mixed",
            where=f"window {worst['window']} of {worst['windows']}, leaf {worst['leaf']}",
            why=f"its share is off by {worst['deviation']:.4f}, chance allows {worst['bound']:.4f}",
            remedy="this is a bug of the serializer; nothing was committed",
        )
    return worst


def table_of(rows: list[dict[str, Any]], order: Mapping[str, Any]) -> str:
    """The composition as a table in Markdown."""
    total = max(1, sum(row["emitted_tokens"] for row in rows))
    lines = ["| leaf | planned tokens | emitted tokens | share | epochs |", "|---|--:|--:|--:|--:|"]
    lines += [
        f"| {row['leaf']} | {row['planned_tokens']:,} | {row['emitted_tokens']:,} | {row['emitted_tokens'] / total:.2%} | {row['epochs']:.2f} |"
        for row in rows
    ]
    lines.append("")
    lines.append(
        f"{order['windows']} windows of the training order: the share furthest off is at {order['ratio']:.0%} of what chance allows."
    )
    return "\n".join(lines) + "\n"


def chart_of(rows: list[dict[str, Any]]) -> str:
    """Planned (outlined) and emitted (filled) tokens a leaf as an SVG figure."""
    left, width, row_height = 190, 460, 30
    most = max((max(row["planned_tokens"], row["emitted_tokens"]) for row in rows), default=1) or 1
    height = 50 + row_height * len(rows)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 150} {height}" width="{left + width + 150}"'
        f' height="{height}" font-family="system-ui,sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>',
        '<text x="12" y="22" font-size="15">Composition of the corpus in tokens: planned (line) and emitted (bar)</text>',
    ]
    for number, row in enumerate(rows):
        y = 40 + number * row_height
        emitted, planned = (width * row[f"{what}_tokens"] / most for what in ("emitted", "planned"))
        label = f"{row['emitted_tokens']:,} · {row['epochs']:.2f} epochs"
        parts += [
            f'<text x="12" y="{y + 15}">{escape(row["leaf"])}</text>',
            f'<rect x="{left}" y="{y}" width="{emitted:.1f}" height="20" fill="#4c8bbf"><title>{escape(label)}</title></rect>',
            f'<path d="M{left + planned:.1f} {y - 2}v24" stroke="#c94f4f" stroke-width="2"/>',
            f'<text x="{left + max(emitted, planned) + 8:.1f}" y="{y + 15}" fill="#444">{label}</text>',
        ]
    return "".join(parts) + "</svg>\n"
