"""Checkpoints of a work directory: save, verify, recover, restore."""
