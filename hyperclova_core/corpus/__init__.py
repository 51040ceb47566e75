"""The corpus stages, one module or folder each: ingest, deduplicate, deidentify, enrich, filter, select, mix."""
