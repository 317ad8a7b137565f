"""A control plane by hand.

python -m tests.cluster build [NAME...]     build what is missing of the control plane, or of the binaries named
python -m tests.cluster build --for-tests   build that and what else the tests run
python -m tests.cluster packages NAME...    install Debian packages where they are missing
python -m tests.cluster up                  start one that stays, and print its KUBECONFIG line
python -m tests.cluster down                stop it and delete its state
python -m tests.cluster lock                write the Go modules' files anew from the pins (`make lock`)
"""

import shutil
import sys
from pathlib import Path

from tests.cluster import build, gomod, packages, paths, processes
from tests.cluster.errors import ClusterError


def main(arguments: list[str]) -> None:
    """Does what the module's text says; exits with it otherwise."""
    match arguments:
        case ["build", "--for-tests"]:
            build.ensure((*build.CONTROL_PLANE, *build.CLIENTS))
        case ["build", *names]:
            build.ensure(names or build.CONTROL_PLANE)
        case ["packages", *names] if names and set(names) <= packages.COMMANDS.keys():
            packages.ensure(names)
        case ["up"]:
            _up()
        case ["down"]:
            processes.stop_all(_by_hand())
            shutil.rmtree(_by_hand(), ignore_errors=True)
        case ["lock"]:
            gomod.lock_all()
        case _:
            sys.exit(__doc__)


def _by_hand() -> Path:
    return paths.run() / "by-hand"


def _up() -> None:
    # Imported late: only this needs more than the standard library, and the rest runs before anything is installed.
    from tests.cluster.control_plane import ControlPlane

    cluster = ControlPlane(_by_hand())
    cluster.up()
    print(f"export KUBECONFIG={cluster.kubeconfig}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except ClusterError as error:
        sys.exit(str(error))
