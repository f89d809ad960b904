"""From annotation and feature files to batches."""
