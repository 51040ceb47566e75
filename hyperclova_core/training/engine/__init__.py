"""One optimizer step over all ranks: pipeline_engine, engine, throughput."""
