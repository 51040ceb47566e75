"""Ingest: what a crawl or an export left → documents. `stage` reads like it runs: readers → records → documents."""
