"""A process that extracts main content from pages sent to its standard input, so that it can be killed when it hangs.

Frames both ways: four bytes of length (big-endian), then UTF-8. The answer is a JSON object with `title`, `text`,
`robots`, `canonical`.
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any, BinaryIO

from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.html import HTMLTree

_BLANKS = re.compile(r"\n{3,}")


def read_frame(stream: BinaryIO) -> bytes | None:
    """The next frame, or None at the end."""
    head = stream.read(4)
    return stream.read(int.from_bytes(head, "big")) if len(head) == 4 else None


def write_frame(stream: BinaryIO, data: bytes) -> None:
    """Send a frame."""
    stream.write(len(data).to_bytes(4, "big") + data)
    stream.flush()


def extract(page: str) -> dict[str, str]:
    """Main content of a page, with what its head says; boilerplate (navigation, footers) is left out.

    Where the boilerplate rules leave less than a tenth of all text, the page is no article, and all text is taken.
    """
    tree = HTMLTree.parse(page)
    head = tree.head
    robots = canonical = ""
    if head is not None:
        for meta in head.get_elements_by_tag_name("meta"):
            if (meta.getattr("name") or "").lower() in ("robots", "googlebot", "yeti"):
                robots += "," + (meta.getattr("content") or "")
        for link in head.get_elements_by_tag_name("link"):
            if (link.getattr("rel") or "").lower() == "canonical":
                canonical = link.getattr("href") or ""
    options: dict[str, Any] = {
        "preserve_formatting": True,
        "list_bullets": False,
        "alt_texts": False,
        "links": False,
        "form_fields": False,
        "noscript": False,
    }
    everything = extract_plain_text(tree, main_content=False, **options)
    main = extract_plain_text(tree, main_content=True, **options)
    text = main if len(main) * 10 >= len(everything) else everything
    return {
        "title": (tree.title or "").strip(),
        "text": _BLANKS.sub("\n\n", text).strip(),
        "robots": robots.lower(),
        "canonical": canonical,
    }


def main() -> None:
    """Answer frames until the input ends."""
    while (frame := read_frame(sys.stdin.buffer)) is not None:
        write_frame(sys.stdout.buffer, json.dumps(extract(frame.decode("utf-8", "replace"))).encode())


if __name__ == "__main__":
    main()
