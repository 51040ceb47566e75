"""What every stage stands on. Read: storage, datasets, stages, corpora; then warehouse and lineage."""
