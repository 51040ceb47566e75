"""Jobs on a cluster: manifests (rendering), api, state, rank_logs, backend."""
