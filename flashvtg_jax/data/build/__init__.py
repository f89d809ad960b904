"""From released files to a built data set."""
