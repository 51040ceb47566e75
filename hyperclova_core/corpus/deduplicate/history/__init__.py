"""Night after night: index, index_lookup (what a night touches), index_update, stage."""
