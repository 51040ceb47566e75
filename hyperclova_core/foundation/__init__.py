"""What every stage stands on: configuration, storage, datasets, Spark, lineage, gates and the stage runner."""
