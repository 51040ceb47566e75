"""The `hyperclova` command: thin, one file a group of sub-commands."""
