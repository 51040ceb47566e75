"""The lineage graph for people: a tree on the terminal, and one HTML file that needs nothing else."""

from __future__ import annotations

import json
from html import escape

from hyperclova_core.foundation.printable import printable
from hyperclova_core.provenance.graph import Graph, Node

SHOWN_FILES = 5
WIDTH, HEIGHT, ACROSS, DOWN, MARGIN = 140, 58, 170, 72, 12
COLOURS = {"dataset": "#dcebf7", "files": "#eeeeee", "run": "#fff2cc", "model": "#e6f4d7", "corpus": "#e6f4d7"}
STYLE = (
    "body{font:14px system-ui,sans-serif;margin:24px;color:#222}text{font:12px system-ui,sans-serif;fill:#222}"
    "rect{stroke:#888;rx:6}rect.gone,rect.expired{stroke-dasharray:5 4}rect.differs{stroke:#c00;stroke-width:2}"
    "path{fill:none;stroke:#999}details{margin:4px 0}pre{background:#f6f6f6;padding:8px;overflow:auto}.dim{fill:#777}.graph{max-width:100%;height:auto}"
)


def describe(node: Node) -> str:
    """A node in one line."""
    parts = [node.id if node.kind == "dataset" else f"{node.kind} {node.label}"]
    facts = node.facts
    if "count" in facts:
        parts.append(f"{_files(facts['count'])}, {facts['bytes']:,} bytes")
    if facts.get("rows_in"):
        parts.append(f"{facts['rows_in']:,} in, {facts.get('kept', 0):,} kept")
    if node.digest:
        parts.append(f"digest {node.digest[:12]}")
    if facts.get("made_by"):
        parts.append(f"by {facts['made_by']} at {facts.get('made_at', '')}")
    if facts.get("recipe"):
        parts.append(f"recipe {facts['recipe']}, code {facts['code_version']}")
    if node.state != "here":
        parts.append({"expired": "past its time to live", "gone": "no longer here"}.get(node.state, node.state.upper()))
    return "  ".join(parts)


def _files(count: int) -> str:
    return f"{count:,} file{'' if count == 1 else 's'}"


def tree(graph: Graph) -> str:
    """The graph as an indented tree; what was shown above is not opened again."""
    lines: list[str] = []
    seen: set[str] = set()

    def walk(name: str, role: str, head: str, tail: str) -> None:
        node = graph.nodes[name]
        again = name in seen
        opened = graph.inputs(name) or node.facts.get("files")
        lines.append(
            f"{head}{role + ': ' if role else ''}{describe(node)}{'  (see above)' if again and opened else ''}"
        )
        if again:
            return
        seen.add(name)
        files = node.facts.get("files", [])
        shown = [f"{printable(item['name'])}  {item['bytes']:,} bytes" for item in files[:SHOWN_FILES]]
        if len(files) > SHOWN_FILES:
            shown.append(f"and {len(files) - SHOWN_FILES:,} more")
        below = graph.inputs(name)
        for number, (source, name_of_role) in enumerate(below):
            last = number == len(below) - 1
            label = "" if name_of_role.startswith("files:") else name_of_role
            walk(source, label, f"{tail}{'└─ ' if last else '├─ '}", f"{tail}{'   ' if last else '│  '}")
        for number, line in enumerate(shown):
            lines.append(f"{tail}{'└─ ' if number == len(shown) - 1 else '├─ '}{line}")

    walk(graph.root, "", "", "")
    return "\n".join(lines) + "\n"


def html(graph: Graph) -> str:
    """The graph as one HTML file: a picture from left (files) to right (what was asked for), and all facts below it."""
    place = _layout(graph)
    width = max(x for x, _ in place.values()) + WIDTH + MARGIN
    height = max(y for _, y in place.values()) + HEIGHT + MARGIN
    parts = [f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" class="graph">']
    for made, source, role in graph.edges:
        (x1, y1), (x2, y2) = place[source], place[made]
        start, end = (x1 + WIDTH, y1 + HEIGHT // 2), (x2, y2 + HEIGHT // 2)
        middle = (start[0] + end[0]) // 2
        curve = f"M{start[0]},{start[1]} C{middle},{start[1]} {middle},{end[1]} {end[0]},{end[1]}"
        parts.append(f'<path d="{curve}"><title>{escape(role)}</title></path>')
    for name, (x, y) in place.items():
        parts.append(_box(graph.nodes[name], x, y))
    parts.append("</svg>")
    facts = [
        f"<details><summary>{escape(describe(node))}</summary><pre>"
        f"{escape(json.dumps({'uri': node.uri, 'digest': node.digest, **node.facts}, ensure_ascii=False, indent=1))}"
        "</pre></details>"
        for node in graph.nodes.values()
    ]
    title = escape(f"Lineage of {graph.nodes[graph.root].label}")
    return (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{title}</title><style>{STYLE}</style>"
        f"<h1>{title}</h1>{''.join(parts)}<h2>All facts</h2>{''.join(facts)}</html>\n"
    )


def _box(node: Node, x: int, y: int) -> str:
    facts = node.facts
    second = _files(facts["count"]) if "count" in facts else ""
    if facts.get("rows_in"):
        second = f"{facts['rows_in']:,} → {facts.get('kept', 0):,}"
    third = node.digest[:12] if node.state == "here" else node.state
    lines = "".join(
        f'<text x="{x + 10}" y="{y + 18 + 17 * number}"{" class=dim" if number else ""}>{escape(line)}</text>'
        for number, line in enumerate((node.label[:20], second, third))
    )
    colour = COLOURS.get(node.kind, "#ffffff")
    return (
        f'<g><title>{escape(describe(node))}</title><rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}"'
        f' fill="{colour}" class="{node.state}"/>{lines}</g>'
    )


def _layout(graph: Graph) -> dict[str, tuple[int, int]]:
    """Column = longest way from a node without inputs; rows in the order of finding."""
    depth: dict[str, int] = {}

    def of(name: str) -> int:
        if name not in depth:
            depth[name] = 1 + max((of(source) for source, _ in graph.inputs(name)), default=-1)
        return depth[name]

    of(graph.root)
    columns: dict[int, int] = {}
    place = {}
    for name in graph.nodes:
        column = of(name)
        row = columns.get(column, 0)
        columns[column] = row + 1
        place[name] = (MARGIN + column * ACROSS, MARGIN + row * DOWN)
    return place
