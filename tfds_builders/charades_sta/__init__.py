"""Charades-STA: moments for sentences in home videos of everyday activities."""
