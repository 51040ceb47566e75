"""Main content of pages."""

from __future__ import annotations

import re
from typing import Any

from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.html import HTMLTree

_BLANKS = re.compile(r"\n{3,}")


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
