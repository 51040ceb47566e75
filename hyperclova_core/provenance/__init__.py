"""Where things came from: the lineage graph, from a model back to the files of the crawl."""
