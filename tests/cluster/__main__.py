"""A control plane, or a whole node, by hand.

python -m tests.cluster build [NAME...]         build what is missing of the control plane, or of the binaries named
python -m tests.cluster build --for-tests       build that and what else the tests run
python -m tests.cluster packages NAME...        install Debian packages where they are missing
python -m tests.cluster packages --for-tests    install those of the tests
python -m tests.cluster image                   build keyshred's image (`make image`)
python -m tests.cluster node-up                 a node that stays, with keyshred; print its KUBECONFIG (`make cluster`)
python -m tests.cluster node-down               stop it and delete it (`make cluster-down`)
python -m tests.cluster up                      a control plane that stays, without keyshred; print its KUBECONFIG line
python -m tests.cluster down                    stop it and delete its state
python -m tests.cluster lock                    write the Go modules' files anew from the pins (`make lock`)
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
            build.ensure((*build.CONTROL_PLANE, *build.NODE, *build.CLIENTS, *build.READERS))
        case ["build", *names]:
            build.ensure(names or build.CONTROL_PLANE)
        case ["packages", "--for-tests"]:
            packages.ensure((*packages.TOOLS, *packages.NODE, *packages.IMAGE))
        case ["image"]:
            # Imported late, like all that needs more than the standard library: the rest runs before it is installed.
            from tests.cluster import image

            print(image.ensure())
        case ["node-up"]:
            _node_up()
        case ["node-down"]:
            from tests.cluster.node import Node

            Node(_node_directory()).remove()
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


def _node_directory() -> Path:
    return paths.run() / "cluster"


def _node_up() -> None:
    from tests.cluster import release
    from tests.cluster.node import Node

    node = Node(_node_directory())
    print(
        "starting Kubernetes: etcd, API server, controllers, containerd, kubelet, kube-proxy, CoreDNS", file=sys.stderr
    )
    node.up()
    print("installing keyshred with no values", file=sys.stderr)
    print(release.install(node), file=sys.stderr)
    print(f"export KUBECONFIG={node.kubeconfig}")


def _up() -> None:
    from tests.cluster.control_plane import ControlPlane

    cluster = ControlPlane(_by_hand())
    cluster.up()
    print(f"export KUBECONFIG={cluster.kubeconfig}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except ClusterError as error:
        sys.exit(str(error))
