"""Two programs compared in turns: each is a process that does what it is asked, and else sleeps.

Requests and answers are JSON lines over pipes. What a program prints goes into a file, and never
between them. The standard library is enough, for one of the programs may have nothing else of ours.
"""

import contextlib
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

_LOG_LINES = 5  # of what a process printed last, shown when it ends before its time


class SideError(Exception):
    """A side could not do what it was asked; the message says which one and why."""


class Side:
    """The process of one side, as the program that asks sees it."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log: Path,
        folder: Path | None = None,
        variables: Mapping[str, str] | None = None,
    ):
        """Starts the process.

        Args:
          name: for messages.
          command: program and arguments.
          log: file for what it prints.
          folder: where it runs.
          variables: of its environment, beside ours.
        """
        self.name = name
        self._log = log
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                cwd=folder,
                env={**os.environ, **(variables or {})},
            )

    def ask(self, what: str, **arguments: Any) -> dict[str, Any]:
        """Returns the answer to a request; SideError if there is none or it is an error."""
        try:
            self._process.stdin.write(json.dumps({"do": what, **arguments}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            status = self._process.wait()
            lines = self._log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
            reason = f"ended with status {status}"
            if status == -9:
                reason += " (killed: out of memory?)"
            raise SideError(f"{self.name}: {reason}; it said: " + " / ".join(lines))
        answer = json.loads(line)
        if "error" in answer:
            raise SideError(f"{self.name}: {answer['error']}")
        return answer

    def close(self) -> None:
        """Ends the process."""
        with self._process as process:  # closes the pipes and waits
            process.stdin.close()
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()


class Requests:
    """The other end, in the process of a side: what is asked, and where answers go."""

    def __init__(self) -> None:
        """Takes the standard streams: from now on, what is printed goes to stderr."""
        self._input = os.fdopen(os.dup(0))
        self._output = os.fdopen(os.dup(1), "w")
        with open(os.devnull) as nothing:
            os.dup2(nothing.fileno(), 0)
        os.dup2(2, 1)

    def next(self) -> dict[str, Any] | None:
        """Waits for a request; None when there will be none."""
        line = self._input.readline()
        return json.loads(line) if line else None

    def answer(self, content: Mapping[str, Any]) -> None:
        """Answers the request, if there is still someone who asks."""
        with contextlib.suppress(BrokenPipeError):
            self._output.write(json.dumps(content) + "\n")
            self._output.flush()


def serve(requests: Requests, handlers: Mapping[str, Callable[..., dict[str, Any]]]) -> None:
    """Answers requests by the function of their name until there are none."""
    while (request := requests.next()) is not None:
        requests.answer(handle(handlers, request))


def handle(
    handlers: Mapping[str, Callable[..., dict[str, Any]]], request: dict[str, Any]
) -> dict[str, Any]:
    """Returns the answer to a request; that of one that fails is its error, in a line."""
    arguments = {key: value for key, value in request.items() if key != "do"}
    try:
        return handlers[request["do"]](**arguments)
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        first = (str(error).strip() or "no message").splitlines()[0]
        return {"error": f"{first[:300]} ({type(error).__name__})"}
