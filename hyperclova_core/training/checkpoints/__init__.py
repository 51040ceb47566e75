"""Checkpoints for any layout: committed, files, reader, save_and_load, fence."""
