"""Every metric, declared once: name, type, labels, help. docs/operations.md lists them; a test holds the two together.

The webhook's workers are processes, so theirs are kept in files of `PROMETHEUS_MULTIPROC_DIR`, which the parent adds
up; the variable has to be set before this module is imported. What the controller knows of objects is collected when
asked.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from keyshred.errors import Deny, KeyshredError, Retry, Stop

PROCESS: Final = CollectorRegistry()
"""What this process counts itself."""
_FAST: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds."""

# --- webhook
ADMISSION_SECONDS: Final = Histogram(
    "keyshred_admission_duration_seconds",
    "Time to answer an admission review; outcome: allowed, refused, retry, stopped or failed",
    ("resource", "outcome"),
    buckets=_FAST,
    registry=PROCESS,
)
SEALS: Final = Counter(
    "keyshred_seals_total", "Secrets sealed under a new data key, those of dry runs included", registry=PROCESS
)
UNSEAL_SECONDS: Final = Histogram(
    "keyshred_unseal_duration_seconds",
    "Time to answer an unseal call; result: opened, unchanged, unauthenticated, refused, missing, destroyed, damaged, "
    "malformed, unavailable or failed",
    ("result",),
    buckets=_FAST,
    registry=PROCESS,
)
POLICY_AGE: Final = Gauge(
    "keyshred_policy_age_seconds",
    "Age of the oldest worker's policy; above 1 s it refuses, but for a worker that nobody asks",
    registry=PROCESS,
    multiprocess_mode="livemax",
)
READY: Final = Gauge(
    "keyshred_workers_ready",
    "Workers whose last trial of policy and token succeeded",
    registry=PROCESS,
    multiprocess_mode="livesum",
)
WORKERS: Final = Gauge("keyshred_workers", "Worker processes that run", registry=PROCESS, multiprocess_mode="livesum")
CERTIFICATE_EXPIRY: Final = Gauge(
    "keyshred_certificate_expiry_timestamp_seconds",
    "When the serving certificate in use ends (Unix time)",
    registry=PROCESS,
    multiprocess_mode="livemin",
)
# --- both
HSM_SECONDS: Final = Histogram(
    "keyshred_hsm_operation_duration_seconds",
    "Time of a call of the token, waiting included; outcome: ok, retry, refused or stopped",
    ("operation", "outcome"),
    buckets=_FAST,
    registry=PROCESS,
)
HSM_QUEUE: Final = Gauge(
    "keyshred_hsm_queue_depth",
    "Calls that wait for the token, or are at it",
    registry=PROCESS,
    multiprocess_mode="livesum",
)
# --- controller
LEADER: Final = Gauge(
    "keyshred_leader", "1 in the controller that holds the Lease", registry=PROCESS, multiprocess_mode="livesum"
)
RECONCILE_FAILURES: Final = Counter(
    "keyshred_reconcile_failures_total",
    "Jobs of the controller that failed, by what they are about",
    ("kind",),
    registry=PROCESS,
)
SWEEP: Final = Counter(
    "keyshred_sweep_secrets_total",
    "Secrets that the sweep was at; result: done, refused or failed",
    ("result",),
    registry=PROCESS,
)
# --- node
NODE_CALLS: Final = Counter(
    "keyshred_node_calls_total",
    "Calls of the kubelet; call: publish, unpublish and others; "
    "outcome: ok, refused, retry, stopped, failed or cancelled",
    ("call", "outcome"),
    registry=PROCESS,
)
NODE_VOLUMES: Final = Gauge(
    "keyshred_node_volumes", "Volumes that this process has published", registry=PROCESS, multiprocess_mode="livesum"
)


@dataclass(frozen=True, slots=True)
class Declared:
    """A gauge of the controller's that is collected from what it knows of objects."""

    name: str
    help: str
    labels: Sequence[str] = ()


COLLECTED: Final = {
    d.name: d
    for d in (
        Declared("keyshred_keys", "Root keys by state, as their KeyRecords have it", ("state",)),
        Declared("keyshred_destructions_stalled", "Keys whose destruction cannot go on: see their KeyRecords"),
        Declared("keyshred_root_key_ready", "1 for a RootKey that is Ready, 0 for another", ("root_key", "reason")),
        Declared(
            "keyshred_root_key_material_present",
            "1: the token holds the key. 0: it does not, or nobody knows",
            ("root_key",),
        ),
        Declared("keyshred_root_key_dependents", "Secrets that only this key can open", ("root_key",)),
        Declared(
            "keyshred_root_key_expiry_timestamp_seconds",
            "When a RootKey with an expirationTime is deactivated (Unix time)",
            ("root_key",),
        ),
        Declared(
            "keyshred_key_version_wraps_ratio",
            "Data keys reserved under a version, as a share of the 2^31 that are safe",
            ("root_key", "key_version"),
        ),
        Declared(
            "keyshred_key_authorization_ready",
            "1 for a KeyAuthorization that is Ready, 0 for another",
            ("key_authorization", "reason"),
        ),
        Declared(
            "keyshred_unsealed_secrets",
            "Secrets that are to be sealed and are not; why: pending, held or unsealable",
            ("namespace", "why"),
        ),
        Declared("keyshred_sweep_pending_secrets", "Secrets that the sweep has still to seal or to release"),
        Declared(
            "keyshred_ca_expiry_timestamp_seconds", "When keyshred's newest certificate authority ends (Unix time)"
        ),
        Declared(
            "keyshred_certificate_trusted",
            "1: the serving certificate verifies under what keyshred has published. 0: it does not",
        ),
    )
}
WEBHOOK_ONLY: Final = frozenset(
    {
        "keyshred_admission_duration_seconds",
        "keyshred_seals_total",
        "keyshred_unseal_duration_seconds",
        "keyshred_policy_age_seconds",
        "keyshred_workers_ready",
        "keyshred_workers",
        "keyshred_certificate_expiry_timestamp_seconds",
    }
)
BOTH: Final = frozenset({"keyshred_hsm_operation_duration_seconds", "keyshred_hsm_queue_depth"})
_RESULTS: Final = {
    200: "opened",
    304: "unchanged",
    400: "malformed",
    401: "unauthenticated",
    403: "refused",
    404: "missing",
    410: "destroyed",
    422: "damaged",
    503: "unavailable",
}

Values = Mapping[tuple[str, ...], float]


def families(values: Mapping[str, Values]) -> Iterable[GaugeMetricFamily]:
    """The collected gauges, all of them: label values to number, by name."""
    for declared in COLLECTED.values():
        family = GaugeMetricFamily(declared.name, declared.help, labels=declared.labels)
        for labels, value in values.get(declared.name, {}).items():
            family.add_metric(list(labels), value)
        yield family


class Collected(Collector):
    """Asks for the collected gauges whenever somebody scrapes."""

    def __init__(self, ask: Callable[[], Mapping[str, Values]]) -> None:
        self._ask = ask

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """See Collector.collect."""
        return families(self._ask())


class Nothing(Collector):
    """Of a controller that does not lead: what it knew is another's to say."""

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """See Collector.collect."""
        return ()


def hsm_called(operation: str, seconds: float, error: BaseException | None) -> None:
    """One call of the token: what HsmService reports."""
    HSM_SECONDS.labels(operation, "ok" if error is None else outcome(error)).observe(seconds)


def outcome(error: BaseException) -> str:
    """What an error means to the one who asked."""
    match error:
        case Retry():
            return "retry"
        case Deny():
            return "refused"
        case Stop() | KeyshredError():
            return "stopped"
        case _:
            return "failed"


def node_call(call: str, result: str) -> None:
    """One call of the kubelet."""
    NODE_CALLS.labels(call, result).inc()


def unsealed(status: int, seconds: float) -> None:
    """One unseal call, by the status of its answer."""
    UNSEAL_SECONDS.labels(_RESULTS.get(status, "failed")).observe(seconds)


def of_workers(folder: str) -> bytes:
    """The text that Prometheus reads, of all workers, also those that ended. `folder`: PROMETHEUS_MULTIPROC_DIR."""
    registry = CollectorRegistry()
    registry.register(_OfWebhook(folder))
    return generate_latest(registry)


class _OfWebhook(Collector):
    """All that the workers' files hold, but for what the controller alone counts."""

    def __init__(self, folder: str) -> None:
        self._files = multiprocess.MultiProcessCollector(None, path=folder)  # type: ignore[no-untyped-call]

    def collect(self) -> Iterable[Metric]:
        """See Collector.collect."""
        for family in self._files.collect():  # type: ignore[no-untyped-call]
            if {family.name, f"{family.name}_total"} & (WEBHOOK_ONLY | BOTH):
                yield family


def worker_ended(pid: int, folder: str) -> None:
    """Its gauges count no more; its counters stay."""
    multiprocess.mark_process_dead(pid, path=folder)  # type: ignore[no-untyped-call]


def of_controller(more: Collector) -> bytes:
    """The same of a controller, with what it knows of objects."""
    registry = CollectorRegistry()
    registry.register(more)
    return _own("keyshred_leader", "keyshred_reconcile_failures", "keyshred_sweep_secrets", *BOTH) + generate_latest(
        registry
    )


def of_node() -> bytes:
    """The same of a node's driver."""
    return _own("keyshred_node_calls", "keyshred_node_volumes")


def _own(*names: str) -> bytes:
    suffixes = ("", "_total", "_created", "_bucket", "_sum", "_count")
    return generate_latest(PROCESS.restricted_registry([f"{name}{suffix}" for name in names for suffix in suffixes]))
