"""ServiceAccounts and their tokens."""

from tests.cluster.kubectl import Kubectl


def create(kubectl: Kubectl, namespace: str, name: str = "default") -> None:
    """Makes the ServiceAccount; also `default`, which no controller makes here and without which no Pod is admitted.

    Errors: ClusterError.
    """
    kubectl.run("create", "serviceaccount", name, f"--namespace={namespace}")


def token(
    kubectl: Kubectl,
    namespace: str,
    name: str,
    *,
    audience: str | None = None,
    pod: str | None = None,
    seconds: int = 3600,
) -> str:
    """A token of the ServiceAccount, from the API server's own TokenRequest.

    `audience` None: the API server's own. `pod`: bound to that living Pod of the namespace, as kubelets ask for it.
    `seconds` of validity, at least 600. Errors: ClusterError.
    """
    arguments = ["create", "token", name, f"--namespace={namespace}", f"--duration={seconds}s"]
    if audience is not None:
        arguments.append(f"--audience={audience}")
    if pod is not None:
        uid = kubectl("get", "pod", pod, f"--namespace={namespace}")["metadata"]["uid"]
        arguments += ["--bound-object-kind=Pod", f"--bound-object-name={pod}", f"--bound-object-uid={uid}"]
    return kubectl.run(*arguments).stdout.strip()
