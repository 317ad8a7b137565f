"""keyshred's custom resources as the decisions see them: parsed once, frozen."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from keyshred.envelope.format import Mechanism
from keyshred.errors import Malformed
from keyshred.names import KeyState, Mode
from keyshred.policy.selectors import Labels, matches
from keyshred.policy.states import effective

Object = Mapping[str, Any]

SEAL: Final = "Seal"
UNSEAL: Final = "Unseal"


def _time(text: str | None) -> datetime | None:
    time = datetime.fromisoformat(text) if text else None
    if time is not None and time.tzinfo is None:
        raise ValueError("a time without its zone cannot be compared with the clock")
    return time


def _uuid(text: str | None) -> UUID | None:
    return UUID(text) if text else None


@dataclass(frozen=True, slots=True)
class KeyVersion:
    """One version as the RootKey's status tells it."""

    version: int
    mechanism: Mechanism
    check_value: bytes


@dataclass(frozen=True, slots=True)
class RootKey:
    """A RootKey."""

    name: str
    uid: str
    key_id: UUID | None
    recorded: KeyState
    deleting: bool
    suspended: bool
    activation: datetime | None
    expiration: datetime | None
    current_version: int
    versions: Mapping[int, KeyVersion]

    @classmethod
    def parse(cls, obj: Object) -> "RootKey":
        """From the API object. Raises Malformed for what the schema would have refused."""
        try:
            meta, spec, status = obj["metadata"], obj.get("spec") or {}, obj.get("status") or {}
            versions = {
                v["version"]: KeyVersion(v["version"], Mechanism(v["mechanism"]), bytes.fromhex(v["checkValue"]))
                for v in status.get("versions") or ()
                if v.get("checkValue") and v.get("mechanism")
            }
            return cls(
                name=meta["name"],
                uid=meta.get("uid", ""),
                key_id=_uuid(spec.get("keyID")),
                recorded=KeyState(status.get("state") or KeyState.PRE_ACTIVATION),
                deleting=bool(meta.get("deletionTimestamp")),
                suspended=bool(spec.get("suspended")),
                activation=_time(spec.get("activationTime")),
                expiration=_time(spec.get("expirationTime")),
                current_version=status.get("currentVersion") or 0,
                versions=versions,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise Malformed("RootKey: does not follow its schema") from error

    def state(self, now: datetime) -> KeyState:
        """The state that counts at `now`."""
        return effective(
            self.recorded,
            deleting=self.deleting,
            suspended=self.suspended,
            activation=self.activation,
            expiration=self.expiration,
            now=now,
        )


@dataclass(frozen=True, slots=True)
class Subject:
    """A ServiceAccount that may unseal."""

    namespace: str
    name: str
    allow_unbound: bool = False


@dataclass(frozen=True, slots=True)
class SecretMeta:
    """What a KeyAuthorization may select a Secret by."""

    name: str
    type: str
    labels: Labels

    @classmethod
    def parse(cls, obj: Object) -> "SecretMeta":
        """From the API object."""
        meta = obj.get("metadata") or {}
        return cls(meta.get("name") or "", obj.get("type") or "Opaque", meta.get("labels") or {})


@dataclass(frozen=True, slots=True)
class Authorization:
    """A KeyAuthorization."""

    name: str
    root_key_name: str
    key_id: UUID | None
    mode: Mode
    namespace_names: frozenset[str]
    namespace_selector: Object | None
    secret_selector: Object | None
    secret_types: frozenset[str]
    exclude_names: frozenset[str]
    exclude_types: frozenset[str]
    exclude_selector: Object | None
    operations: frozenset[str]
    subjects: tuple[Subject, ...]
    always_reseal: bool
    expiration: datetime | None
    deleting: bool
    last_unseal: datetime | None

    @classmethod
    def parse(cls, obj: Object) -> "Authorization":
        """From the API object. Raises Malformed for what the schema would have refused."""
        try:
            meta, spec = obj["metadata"], obj["spec"]
            ref, namespaces = spec["rootKeyRef"], spec.get("namespaces") or {}
            secrets = spec.get("secrets") or {}
            exclude = secrets.get("exclude") or {}
            return cls(
                name=meta["name"],
                root_key_name=ref["name"],
                key_id=_uuid(ref.get("keyID")),
                mode=Mode(spec.get("mode") or Mode.ENFORCE),
                namespace_names=frozenset(namespaces.get("names") or ()),
                namespace_selector=namespaces.get("selector"),
                secret_selector=secrets.get("selector"),
                secret_types=frozenset(secrets.get("types") or ()),
                exclude_names=frozenset(exclude.get("names") or ()),
                exclude_types=frozenset(exclude.get("types") or ()),
                exclude_selector=exclude.get("selector"),
                operations=frozenset(spec.get("operations") or (SEAL, UNSEAL)),
                subjects=tuple(
                    Subject(s["namespace"], s["name"], bool(s.get("allowUnbound"))) for s in spec.get("subjects") or ()
                ),
                always_reseal=spec.get("reapply") == "AlwaysReseal",
                expiration=_time(spec.get("expirationTime")),
                deleting=bool(meta.get("deletionTimestamp")),
                last_unseal=_time((obj.get("status") or {}).get("lastUnsealTime")),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise Malformed("KeyAuthorization: does not follow its schema") from error

    @property
    def seals(self) -> bool:
        """New values are sealed under it. In Release, what is sealed is kept or stored in plaintext."""
        return self.mode is Mode.ENFORCE and SEAL in self.operations

    @property
    def unseals(self) -> bool:
        """Sealed values may be read, and compared, under it. In Preview it gives nothing."""
        return self.mode is not Mode.PREVIEW and UNSEAL in self.operations

    def in_force(self, now: datetime) -> bool:
        """Neither expired nor deleted."""
        return not self.deleting and (self.expiration is None or now < self.expiration)

    def selects_namespace(self, name: str, labels: Labels) -> bool:
        """Union of names and selector; neither means none."""
        if name in self.namespace_names:
            return True
        return self.namespace_selector is not None and matches(self.namespace_selector, labels)

    def selects_type(self, secret_type: str, by_name_only: frozenset[str]) -> bool:
        """Whether a Secret of this type is meant; types of `by_name_only` must be named."""
        if secret_type in self.exclude_types:
            return False
        if self.secret_types:
            return secret_type in self.secret_types
        return secret_type not in by_name_only

    def selects_labels(self, secret: SecretMeta) -> bool:
        """Whether name and labels are meant: the selector, less what is excluded."""
        if secret.name in self.exclude_names:
            return False
        # `is not None`: an empty selector matches everything, so an empty exclude selector excludes everything.
        if self.exclude_selector is not None and matches(self.exclude_selector, secret.labels):
            return False
        return self.secret_selector is None or matches(self.secret_selector, secret.labels)
