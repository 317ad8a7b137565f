"""Settings: frozen, read once at start. Each option is documented where it is declared.

A flag `--policy-max-age` beats the environment variable `KEYSHRED_POLICY_MAX_AGE`, which beats the default.
"""

import argparse
import math
import os
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Final, TypeVar

from keyshred.errors import ConfigInvalid

S = TypeVar("S", bound="BasicSettings")


def option(help_text: str, default: Any = MISSING, *, positive: bool = False) -> Any:
    """A settings field with its help text; without a default the option is required; `positive` rules out 0."""
    metadata = {"help": help_text, "positive": positive}
    return field(metadata=metadata) if default is MISSING else field(default=default, metadata=metadata)


HSM_DEADLINE: Final = 3.0
HSM_QUEUE: Final = 256
SLOW_CALLS: Final = 2.0
"""Making or destroying a key may take this many times the deadline of other calls of the token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BasicSettings:
    """What every command that talks to an API server needs."""

    kubeconfig: str = option("kubeconfig file; empty: the pod's own ServiceAccount", "")
    namespace: str = option("namespace that keyshred itself runs in; nothing in it is ever sealed", "keyshred")
    log_level: str = option("INFO, WARNING or ERROR; DEBUG is refused, since libraries print bodies there", "INFO")
    log_format: str = option("text for people, json for collectors of logs", "text")

    def check(self) -> None:
        """Raises ConfigInvalid for a value that contradicts itself or another one."""
        if self.log_level not in ("INFO", "WARNING", "ERROR"):
            raise ConfigInvalid(f"--log-level {self.log_level}: use INFO, WARNING or ERROR")
        if self.log_format not in ("text", "json"):
            raise ConfigInvalid(f"--log-format {self.log_format}: use text or json")
        for f in fields(self):
            value = getattr(self, f.name)
            # "nan" and "inf" are numbers to float(), and no comparison below would catch them.
            if f.type in (int, float) and not 0 <= value < math.inf:
                raise ConfigInvalid(f"--{_flag(f.name)} {value}: must be finite and not negative")
            if value == 0 and f.metadata["positive"]:
                raise ConfigInvalid(f"--{_flag(f.name)}: must be more than 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class CommonSettings(BasicSettings):
    """What every process that talks to a token, too, needs."""

    token_uri: str = option(
        "PKCS#11 token as an RFC 7512 URI with module-path and pin-source, "
        "e.g. 'pkcs11:token=keyshred?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=/etc/keyshred/pin'"
    )
    hsm_deadline: float = option(
        "seconds that a call of the token may take, waiting in the queue included; twice that to make or destroy a key",
        HSM_DEADLINE,
        positive=True,
    )
    refused_pin_file: str = option(
        "file, shared by the processes with this PIN and outliving them, that remembers a refused PIN; "
        "empty: a webhook's workers remember together, a controller by itself, until they end",
        "",
    )
    metrics_port: int = option("port of /metrics, and of the controller's /livez and /readyz; 0: none", 0)
    metrics_listen: str = option("address of that port", "0.0.0.0")  # noqa: S104 - a pod's port is there for others
    hsm_queue: int = option(
        "calls that may wait for the token before further ones are turned away", HSM_QUEUE, positive=True
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookSettings(CommonSettings):
    """`keyshred webhook`: admission and unsealing."""

    listen: str = option("address to listen on", "0.0.0.0")  # noqa: S104 - a pod's port is there for others
    port: int = option("port to listen on; 0 picks a free one and prints it", 8443)
    tls_cert: str = option("PEM file with the serving certificate and its chain", "")
    tls_key: str = option("PEM file with the private key of the serving certificate", "")
    tls_secret: str = option("or the Secret in keyshred's namespace with both (tls.crt, tls.key)", "")
    client_ca: str = option(
        "PEM file with the CA of the API server's client certificate; where given, admission requires one", ""
    )
    client_name: str = option("common name that the API server's client certificate must have", "")
    workers: int = option("worker processes; each has a token session of its own", 2)
    drain_delay: float = option(
        "seconds after SIGTERM in which new connections are still served, until no Service sends any", 5.0
    )
    max_body: int = option("bytes of an admission review that are read at most", 8 * 1024 * 1024, positive=True)
    policy_max_age: float = option("seconds after which policy that was not confirmed decides nothing", 1.0)
    policy_confirm_every: float = option(
        "seconds between consistent lists that confirm the policy under traffic", 0.4, positive=True
    )
    token_review_ttl: float = option("seconds that a TokenReview's answer is kept, at most 10", 10.0)
    compare_misses: int = option(
        "wrong guesses per hour, user, Secret and worker after which values are sealed fresh instead of compared", 10
    )
    least_grace_period: str = option(
        "least spec.destruction.gracePeriod that a RootKey may ask for, a Go duration", "0s"
    )
    require_protected: bool = option("whether every RootKey must have spec.destruction.protected", False)
    pod_image: str = option(
        "image, with cp in it, of the container that pods get where Secrets are in their environment: keyshred's own",
        "",
    )
    pod_image_pull_policy: str = option("when nodes pull it", "IfNotPresent")

    def check(self) -> None:
        """Raises ConfigInvalid for a value that contradicts itself or another one."""
        BasicSettings.check(self)
        if not 1 <= self.workers <= 64:
            raise ConfigInvalid(f"--workers {self.workers}: use 1 to 64")
        if self.port > 65535:
            raise ConfigInvalid(f"--port {self.port}: use 0 to 65535")
        if self.policy_max_age > 1.0 or self.token_review_ttl > 10.0:
            raise ConfigInvalid("--policy-max-age is 1 s, --token-review-ttl 10 s at most: revocation rests on them")
        if self.policy_confirm_every >= self.policy_max_age:
            raise ConfigInvalid("--policy-confirm-every must be less than --policy-max-age")
        if bool(self.tls_secret) == bool(self.tls_cert) or bool(self.tls_cert) != bool(self.tls_key):
            raise ConfigInvalid("give --tls-cert and --tls-key, or --tls-secret")
        if self.client_name and not self.client_ca:
            raise ConfigInvalid("--client-name needs --client-ca")


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerSettings(CommonSettings):
    """`keyshred controller`: keys, records, namespace labels, destruction."""

    resync: float = option("seconds between full passes over every custom resource", 60.0, positive=True)
    repeat_search_after: float = option("seconds after a destruction when the search for the key is repeated", 60.0)
    count_residual_after: float = option(
        "seconds after a destruction, and not before that search, when it is counted what running pods still hold; "
        "kubelets look at their volumes every 60 to 90 s",
        240.0,
    )
    settle: float = option(
        "seconds a new or removed label takes to be known to every API server and webhook: until then nothing that was "
        "there before is sealed, and the label `retained` stays; less than 30 is for tests alone",
        30.0,
    )
    sweep_rate: float = option(
        "Secrets per second that are sealed where they were there before, or released, at most", 50.0, positive=True
    )
    lease_duration: float = option("seconds after which a controller that stopped renewing its Lease is replaced", 15.0)
    hsm_backup_retention: str = option("how long backups of the HSM are kept, for the record; empty: unknown", "")
    certificates: str = option(
        "who makes the webhook's certificates: self, cert-manager (by the Secret keyshred-webhook-cert-manager), or "
        "none where they come as files",
        "none",
    )
    certificate_lifetime: float = option("seconds that a serving certificate is good for", 90 * 86400.0, positive=True)
    ca_lifetime: float = option("seconds that keyshred's own authority is good for", 365 * 86400.0, positive=True)
    ca_overlap: float = option(
        "seconds that clients and webhooks get to take note of a new authority or certificate", 300.0, positive=True
    )
    certificate_hosts: str = option("further DNS names and addresses of the webhook, separated by commas", "")
    node_namespace: str = option(
        "namespace of the DaemonSet, where clients of the webhook are, too; empty: keyshred's own", ""
    )
    cluster_domain: str = option("the cluster's DNS domain", "cluster.local")
    token_record: str = option(
        "ConfigMap in keyshred's namespace that remembers which token the keys are in; nothing is done with another "
        "one while it is there; empty: any token that the URI matches is taken",
        "",
    )
    mode: str = option("evaluation or production, for that ConfigMap", "production")

    def check(self) -> None:
        """Raises ConfigInvalid for a value that contradicts itself or another one."""
        BasicSettings.check(self)
        if self.certificates not in ("self", "cert-manager", "none"):
            raise ConfigInvalid(f"--certificates {self.certificates}: use self, cert-manager or none")
        if self.ca_lifetime < 3 * self.certificate_lifetime:
            raise ConfigInvalid("--ca-lifetime must be at least three times --certificate-lifetime")
        if self.certificate_lifetime < 6 * self.ca_overlap:
            raise ConfigInvalid("--certificate-lifetime must be at least six times --ca-overlap")
        if self.lease_duration < 2 * SLOW_CALLS * self.hsm_deadline:
            raise ConfigInvalid(
                f"--lease-duration must be at least {2 * SLOW_CALLS:.0f} times --hsm-deadline: a step in the HSM has "
                "to end before anybody else may take the Lease"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings(BasicSettings):
    """`keyshred node`: the CSI driver of one node."""

    url: str = option("the webhook's Service, e.g. https://keyshred-webhook.keyshred.svc")
    ca: str = option("PEM file with the certificates that clients trust (ConfigMap keyshred-ca)")
    node_name: str = option("name of this node")
    kubelet_dir: str = option("the kubelet's root directory, at the same path here as on the node", "/var/lib/kubelet")
    metrics_port: int = option("port of /metrics, /livez and /readyz; 0: none", 0)
    metrics_listen: str = option("address of that port", "0.0.0.0")  # noqa: S104 - a pod's port is there for others

    def check(self) -> None:
        """Raises ConfigInvalid for a value that contradicts itself or another one."""
        BasicSettings.check(self)
        if not self.node_name:
            raise ConfigInvalid("--node-name is empty")
        if not self.kubelet_dir.startswith("/"):
            raise ConfigInvalid(f"--kubelet-dir {self.kubelet_dir}: give an absolute path")


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSettings(BasicSettings):
    """`keyshred evaluation-token`: the software token of the evaluation mode."""

    make: bool = option("whether to make token and PINs where there are none, as the controller's pod does", False)
    storage: str = option("pvc or node: where the folder is, for messages and for the record", "node")
    node: str = option("name of this node, for messages and for the record", "")
    folder: str = option("folder of the token", "/var/lib/keyshred")
    pin_file: str = option("where to leave the user PIN for the container that comes next", "/run/keyshred/pin")


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckSettings(BasicSettings):
    """`keyshred check`: what `helm test` asks."""

    url: str = option("the webhook's Service, e.g. https://keyshred-webhook.keyshred.svc")
    ca: str = option("PEM file with the certificates that clients trust (ConfigMap keyshred-ca)")


_KINDS: Final[Mapping[Any, str]] = {int: "whole number", float: "number", str: "text", bool: "true or false"}
_BOOLEANS: Final = {"true": True, "false": False}


def _flag(name: str) -> str:
    return name.replace("_", "-")


def add_arguments(parser: argparse.ArgumentParser, cls: type[BasicSettings]) -> None:
    """One flag per field of `cls`; absent flags stay out of the namespace."""
    for f in fields(cls):
        default = "required" if f.default is MISSING else f"default {f.default!r}"
        parser.add_argument(
            f"--{_flag(f.name)}",
            default=argparse.SUPPRESS,
            metavar=getattr(f.type, "__name__", "value").upper(),
            # argparse expands % in help texts
            help=f"{f.metadata['help']} ({default}; env {_env(f.name)})".replace("%", "%%"),
        )


def _env(name: str) -> str:
    return f"KEYSHRED_{name.upper()}"


def read(cls: type[S], flags: Mapping[str, str], environ: Mapping[str, str] = os.environ) -> S:
    """Settings from flags, environment and defaults, in this order.

    Raises ConfigInvalid naming each option that is missing or does not parse.
    """
    values: dict[str, Any] = {}
    missing: list[str] = []
    for f in fields(cls):
        raw = flags.get(f.name, environ.get(_env(f.name)))
        if raw is None:
            if f.default is MISSING:
                missing.append(f"--{_flag(f.name)} (or {_env(f.name)})")
            continue
        convert: Any = f.type
        try:
            values[f.name] = _BOOLEANS[raw.lower()] if convert is bool else convert(raw)
        except (ValueError, KeyError):
            raise ConfigInvalid(f"--{_flag(f.name)}: {raw!r} is not a {_KINDS[convert]}") from None
    if missing:
        raise ConfigInvalid(f"missing: {', '.join(missing)}")
    settings = cls(**values)
    settings.check()
    return settings
