"""Near-duplicates. Read: stage, then its steps in the order they run: text (boilerplate, forms), sketches, minhash, clusters, containment, contamination;
in_memory and on_spark are the two ways through them, history is night after night; config, schemas, prepared, result, report beside them."""
