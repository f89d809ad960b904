"""The command line, `flashvtg COMMAND ...`: a file for each command, and what they share."""
