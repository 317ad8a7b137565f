"""One kube-apiserver on loopback, with RBAC and the admission plugins that are on by default."""

import json
import ssl
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.cluster import paths
from tests.cluster.pki import Authority, Pair

WEBHOOK_CLIENT: Final = "kube-apiserver-webhooks"
SERVICE_ACCOUNT_ISSUER: Final = "https://kubernetes.default.svc"
_HOSTS: Final = ("127.0.0.1", "localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "10.96.0.1")


def command(port: int, etcd_url: str, authority: Authority, flags: Sequence[str]) -> list[str]:
    """Command line; `flags` come last, so that they win."""
    serving = authority.issue("apiserver", "kube-apiserver", hosts=_HOSTS)
    token_key = authority.key("service-accounts")
    return [
        str(paths.binaries() / "kube-apiserver"),
        f"--etcd-servers={etcd_url}",
        "--bind-address=127.0.0.1",
        f"--secure-port={port}",
        # The "kubernetes" Service must not point to loopback, and nothing here uses it.
        "--advertise-address=192.0.2.1",
        "--endpoint-reconciler-type=none",
        f"--tls-cert-file={serving.certificate}",
        f"--tls-private-key-file={serving.key}",
        f"--client-ca-file={authority.certificate}",
        "--authorization-mode=Node,RBAC",
        "--allow-privileged",
        "--service-cluster-ip-range=10.96.0.0/16",
        f"--service-account-issuer={SERVICE_ACCOUNT_ISSUER}",
        f"--service-account-key-file={token_key}",
        f"--service-account-signing-key-file={token_key}",
        "--profiling=false",
        f"--admission-control-config-file={_admission_configuration(authority)}",
        *flags,
    ]


def webhook_client(authority: Authority) -> Pair:
    """What it shows to admission webhooks, so that they can tell it from others."""
    return authority.issue(WEBHOOK_CLIENT, WEBHOOK_CLIENT)


def _admission_configuration(authority: Authority) -> Path:
    """Files beside the certificates: by default an API server shows a webhook none."""
    pair = webhook_client(authority)
    kubeconfig = pair.certificate.with_name("webhooks.kubeconfig")
    user = {"client-certificate": str(pair.certificate), "client-key": str(pair.key)}
    kubeconfig.write_text(
        json.dumps({"apiVersion": "v1", "kind": "Config", "users": [{"name": "*", "user": user}]})  # for every webhook
    )
    plugin = {
        "apiVersion": "apiserver.config.k8s.io/v1",
        "kind": "WebhookAdmissionConfiguration",
        "kubeConfigFile": str(kubeconfig),
    }
    plugins = [
        {"name": name, "configuration": plugin} for name in ("MutatingAdmissionWebhook", "ValidatingAdmissionWebhook")
    ]
    configuration = kubeconfig.with_name("admission.json")
    configuration.write_text(
        json.dumps({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AdmissionConfiguration", "plugins": plugins})
    )
    return configuration


def url(port: int) -> str:
    """Where clients find it."""
    return f"https://127.0.0.1:{port}"


def is_ready(port: int, authority: Authority, admin: Pair) -> bool:
    """Whether it is ready and the namespace `default`, which it makes a moment later, is there."""
    context = ssl.create_default_context(cafile=str(authority.certificate))
    context.load_cert_chain(admin.certificate, admin.key)
    try:
        for path in ("/readyz", "/api/v1/namespaces/default"):
            with urllib.request.urlopen(url(port) + path, timeout=5, context=context):
                pass
    except OSError:  # no connection yet, or HTTPError: not ready
        return False
    return True
