"""Checkpoints for any layout: files, reader, save_and_load, fence."""
