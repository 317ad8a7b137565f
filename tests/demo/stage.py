"""How the demo speaks: chapters, commands with their output, and checks that end it where they fail."""

import shlex
import sys
import textwrap
import time
from typing import Final

from tests.cluster.kubectl import Kubectl

_WIDTH: Final = 110
_STARTED: Final = time.monotonic()


class Unexpected(Exception):
    """The demo saw something else than it promised."""


def chapter(title: str) -> None:
    """A heading, with the seconds since the start."""
    print(
        f"\n\033[1m== {title}\033[0m  [{time.monotonic() - _STARTED:.0f} s]" if _colour() else f"\n== {title}",
        flush=True,
    )


def say(text: str) -> None:
    """A paragraph of narration."""
    print(textwrap.fill(" ".join(text.split()), _WIDTH), flush=True)


def show(text: str) -> None:
    """Evidence, indented."""
    print(textwrap.indent(text.rstrip("\n"), "    "), flush=True)


def command(text: str) -> None:
    """A command as one would type it."""
    print(f"  $ {text}", flush=True)


def check(fact: bool, text: str) -> None:
    """States a fact that was looked at. Raises Unexpected where it does not hold."""
    if not fact:
        raise Unexpected(f"not so: {text}")
    print(f"  ✓ {text}", flush=True)


def kubectl(run: Kubectl, *arguments: str, input: str | None = None) -> str:
    """Types a kubectl command, shows what it prints (warnings too) and returns that."""
    command(
        shlex.join(["kubectl", *arguments]) + (" <<EOF\n" + textwrap.indent(f"{input}EOF", "    ") if input else "")
    )
    done = run.run(*arguments, input=input)
    show(done.stderr + done.stdout)
    return done.stdout


def fail(error: BaseException) -> None:
    """Says why the demo ends early."""
    print(f"\nThe demo failed: {error}", file=sys.stderr, flush=True)


def _colour() -> bool:
    return sys.stdout.isatty()
