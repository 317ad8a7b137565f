"""Entry point of the image: one command per process."""

import argparse
import sys
from collections.abc import Mapping, Sequence

from keyshred import __version__
from keyshred.config import (
    BasicSettings,
    CheckSettings,
    ControllerSettings,
    EvaluationSettings,
    NodeSettings,
    WebhookSettings,
    add_arguments,
    read,
)
from keyshred.errors import ConfigInvalid, KeyshredError, Malformed

EXIT_FAILED = 1
EXIT_USAGE = 2
"""Settings that cannot work: starting again does not help."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command. Returns 0, EXIT_FAILED or EXIT_USAGE, with one line on stderr that says why."""
    flags = vars(_parser().parse_args(argv))
    command: str = flags.pop("command")
    try:
        _run(command, flags)
    except (ConfigInvalid, Malformed) as error:  # Malformed: the token URI
        print(f"keyshred {command}: {error}", file=sys.stderr)
        return EXIT_USAGE
    except KeyshredError as error:
        print(f"keyshred {command}: {error}", file=sys.stderr)
        return EXIT_FAILED
    return 0


def _run(command: str, flags: Mapping[str, str]) -> None:
    # Each process loads only what it needs.
    match command:
        case "webhook":
            from keyshred.webhook.main import run as run_webhook

            run_webhook(read(WebhookSettings, flags))
        case "controller":
            from keyshred.controller.main import run as run_controller

            run_controller(read(ControllerSettings, flags))
        case "node":
            from keyshred.node.main import run as run_node

            run_node(read(NodeSettings, flags))
        case "evaluation-token":
            from keyshred.cli.evaluation import run as run_evaluation

            run_evaluation(read(EvaluationSettings, flags))
        case "check":
            from keyshred.cli.check import run as run_check

            run_check(read(CheckSettings, flags))
        case _:
            from keyshred.cli.uninstall_notice import run as run_notice

            run_notice(read(BasicSettings, flags))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="keyshred", description="HSM-rooted encryption of Kubernetes Secrets, with crypto-shredding."
    )
    parser.add_argument("--version", action="version", version=f"keyshred {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    described: tuple[tuple[str, type[BasicSettings], str], ...] = (
        ("webhook", WebhookSettings, "admission and unsealing; run two or more"),
        ("controller", ControllerSettings, "keys, records, namespace labels and destruction; one is active"),
        ("node", NodeSettings, "the CSI driver of one node: files of Secrets for its pods"),
        (
            "evaluation-token",
            EvaluationSettings,
            "makes the software token of the evaluation mode, once, or waits for it",
        ),
        ("check", CheckSettings, "asks an installation whether it works, as helm test does"),
        ("uninstall-notice", BasicSettings, "says what stays sealed when keyshred goes"),
    )
    for name, settings, text in described:
        sub = commands.add_parser(name, help=text, description=text)
        add_arguments(sub, settings)
    return parser
