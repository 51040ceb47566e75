"""Datasets: document_schema, manifest, dataset, parquet_writer, commit. One manifest object makes all files of a dataset visible."""
