"""What a file of this package holds that is a command; its file name is the command's name.

    COMMAND = Command(...)
    def add_arguments(parser: argparse.ArgumentParser) -> None: ...
    def run(options: argparse.Namespace, overrides: Sequence[str]) -> int: ...

`run` gets the parsed options and the arguments of the form --config.KEY=VALUE, and returns the exit
status. It imports what it needs itself: all commands are loaded for `flashvtg --help`, which is to
be instant and to need no device. A new command is a new file and its name in `main.COMMANDS`.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Command:
    """What --help says about a command.

    Attributes:
      summary: its line in the list of commands.
      description: a paragraph for its own --help.
      example: a command line that works.
      details: preformatted text after the description.
      takes_fields: whether it takes fields of the configuration, --config.KEY=VALUE.
      uses_huge_pages: whether it computes long enough for them to be worth a restart.
    """

    summary: str
    description: str
    example: str
    details: str = ""
    takes_fields: bool = False
    uses_huge_pages: bool = False
