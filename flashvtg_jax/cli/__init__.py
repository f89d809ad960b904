"""The command line: `flashvtg COMMAND ...`, a file for each command."""
