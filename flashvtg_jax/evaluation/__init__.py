"""A model over a split: predictions, metrics and result files."""
