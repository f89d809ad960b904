"""The machine: memory, compilation cache, progress bars."""
