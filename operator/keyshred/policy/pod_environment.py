"""Environments with values of Secrets, and what stands in for them: fileKeyRef to files that an init container copies.

The kubelet takes envFrom first and env over it, each in order, and skips an optional fileKeyRef whose value is empty
(Kubernetes, pkg/kubelet/kubelet_pods.go, makeEnvironmentVariables). So an empty entry goes before each that is empty or
may be. Not before the others: the API server warns of names that come twice.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from keyshred.policy.env_file import KEY, unfit
from keyshred.policy.pod_terms import ENV_VOLUME, Json, Object, Terms, at, listed, put, refused
from keyshred.policy.volumes import Variable


@dataclass(frozen=True, slots=True)
class Use:
    """A value for one environment, and the field that asks for it."""

    variable: Variable
    where: str


@dataclass(frozen=True, slots=True)
class Converted:
    """What replaces a container's env and envFrom, and the values that it needs."""

    env: list[Json]
    env_from: list[Json]
    uses: tuple[Use, ...]


def secret_of(entry: Object) -> str:
    """Name of the Secret of an entry of env or envFrom; empty: it has none, or one that Kubernetes itself refuses."""
    name = at(entry, "secretRef", "name")
    if not name and at(entry, "valueFrom", "secretKeyRef", "key"):
        name = at(entry, "valueFrom", "secretKeyRef", "name")
    return name if isinstance(name, str) else ""


def is_native(container: Object, terms: Terms) -> bool:
    """Whether it has values of Secrets from Kubernetes that it should have from us."""
    return any(_moves(entry, terms) for entry in _entries(container))


def secrets(container: Object) -> frozenset[str]:
    """Names of the Secrets that its environment has from Kubernetes."""
    return frozenset(filter(None, map(secret_of, _entries(container))))


def convert(container: Object, where: str, terms: Terms) -> Converted:
    """The environment from files.

    Raises Refused for a Secret or an order of sources that this cannot be done with.
    """
    env: list[Json] = []
    uses: list[Use] = []

    def add(entry: Json, use: Use) -> None:
        variable = use.variable
        _check_value(use, terms)
        reference: Json = {"volumeName": ENV_VOLUME, "path": variable.path, "key": KEY}
        if not terms.has_value(variable.secret, variable.key):
            if not variable.optional or variable.key in terms.keys(variable.secret):
                env.append({"name": entry["name"], "value": ""})
            reference["optional"] = True
        elif variable.optional:
            reference["optional"] = True
        source = {key: value for key, value in (entry.get("valueFrom") or {}).items() if key != "secretKeyRef"}
        env.append({**entry, "valueFrom": {**source, "fileKeyRef": reference}})
        uses.append(use)

    for name, use in _expanded(container, where, terms).items():
        add({"name": name}, use)
    for index, entry in enumerate(listed(container, "env")):
        if _moves(entry, terms):
            ref = entry["valueFrom"]["secretKeyRef"]
            variable = Variable(ref["name"], ref["key"], ref.get("optional") is True)
            add(entry, Use(variable, f"{where}.env[{index}].valueFrom.secretKeyRef"))
        else:
            env.append(entry)
    env_from = [source for source in listed(container, "envFrom") if not _moves(source, terms)]
    return Converted(env, env_from, tuple(uses))


def native(container: Object, recorded: Mapping[str, list[Json]]) -> Json:
    """The container with env and envFrom as they were before `convert`, by what was recorded of them.

    What others have added since stays where it is.
    """
    env = listed(container, "env")
    sources = [source for source in recorded.get("envFrom", ()) if secret_of(source)]
    kept, expanded = _unconverted(env, recorded.get("env", env), sources)
    before = dict(container)
    put(before, "env", kept)
    # A record that came along with a copied manifest says nothing about this container.
    if expanded:
        put(before, "envFrom", _merged(listed(container, "envFrom"), recorded["envFrom"]))
    return before


def path_of(entry: Object) -> str:
    """The file of ours that an entry of env is filled from; empty: none."""
    ref = at(entry, "valueFrom", "fileKeyRef")
    return str(at(ref, "path") or "") if at(ref, "volumeName") == ENV_VOLUME else ""


def is_empty(entry: Object) -> bool:
    """Whether an entry of env sets the empty string; the API server leaves `value` out then."""
    return not entry.get("value") and not entry.get("valueFrom")


def path_of_native(entry: Object) -> str:
    """The file that an entry with a secretKeyRef is filled from; empty: it has none."""
    ref = at(entry, "valueFrom", "secretKeyRef")
    return Variable(ref["name"], ref["key"]).path if ref and secret_of(entry) else ""


def _entries(container: Object) -> Iterator[Json]:
    yield from listed(container, "env")
    yield from listed(container, "envFrom")


def _moves(entry: Object, terms: Terms) -> bool:
    secret = secret_of(entry)
    return bool(secret) and not terms.keeps(secret)


def _expanded(container: Object, where: str, terms: Terms) -> dict[str, Use]:
    """By variable, what envFrom takes from Secrets of ours, in the order of its sources and of their keys."""
    found: dict[str, Use] = {}
    overridden: dict[str, str] = {}
    for index, source in enumerate(listed(container, "envFrom")):
        secret, prefix = secret_of(source), source.get("prefix") or ""
        if not _moves(source, terms):
            keys = terms.keys(secret) or terms.config_map_keys.get(
                at(source, "configMapRef", "name") or "", frozenset()
            )
            by = f"Secret {secret}" if secret else f"ConfigMap {at(source, 'configMapRef', 'name')}"
            overridden |= {prefix + key: by for key in keys if prefix + key in found}
            continue
        place, optional = f"{where}.envFrom[{index}].secretRef", source["secretRef"].get("optional") is True
        if secret not in terms.secrets and not optional:
            raise refused(
                place,
                f"Secret {secret} does not exist, so its keys are not known yet",
                "create it first, or name the variables with env[].valueFrom.secretKeyRef, which wait for it",
            )
        for key in sorted(terms.keys(secret)):
            found.pop(prefix + key, None)  # its place is the later one's
            overridden.pop(prefix + key, None)
            # A key that goes before the pod starts is not there natively either.
            found[prefix + key] = Use(Variable(secret, key, True), place)
    if overridden:
        first = found[min(overridden)]
        by = ", ".join(sorted(set(overridden.values())))
        raise refused(
            first.where,
            f"a later source ({by}) overrides variables of Secret {first.variable.secret}, and that order cannot be "
            f"kept: {', '.join(sorted(overridden))}",
            "put the secretRef after it, give one of them a prefix, or name the variables in env",
        )
    return found


def _check_value(use: Use, terms: Terms) -> None:
    secret, key = use.variable.secret, use.variable.key
    known = terms.secrets.get(secret)
    if known and known.plain is not None and (reason := unfit(known.plain.get(key, b""))):
        raise refused(
            use.where,
            f"the value of key {key} of Secret {secret} fits no variable that comes from a file: {reason}",
            "mount it as a file",
        )


def _unconverted(env: list[Json], recorded: Sequence[Json], sources: list[Json]) -> tuple[list[Json], bool]:
    """The env as it was, and whether something in it came from the recorded envFrom."""
    kept: list[Json] = []
    expanded = False
    at_most = len(recorded)  # both lists have the same order, and what came from envFrom is before the rest
    index = len(env) - 1
    while index >= 0:
        entry = env[index]
        path, name = path_of(entry), entry.get("name")
        index -= 1
        if not path:
            kept.append(entry)
            continue
        own = index >= 0 and env[index].get("name") == name and is_empty(env[index])
        match = _last(recorded[:at_most], name, path)
        if match >= 0:
            kept.append(recorded[match])
            at_most = match
            # Somebody's own empty entry before an optional one that was not there looks like ours.
            theirs = match > 0 and recorded[match - 1].get("name") == name and is_empty(recorded[match - 1])
            second = index > 0 and env[index - 1].get("name") == name and is_empty(env[index - 1])
            index -= own and (second or not theirs)
        elif _came_from(sources, name, path):
            expanded = True
            index -= own
        else:
            kept.append(entry)
    return kept[::-1], expanded


def _last(recorded: Sequence[Json], name: Any, path: str) -> int:
    same = (n for n, e in enumerate(recorded) if e.get("name") == name and path_of_native(e) == path)
    return max(same, default=-1)


def _came_from(sources: list[Json], name: Any, path: str) -> bool:
    secret, _, key = path.partition("/")
    return any(secret_of(source) == secret and (source.get("prefix") or "") + key == name for source in sources)


def _merged(current: list[Json], recorded: list[Json]) -> list[Json]:
    """Both lists in one: each has the order of its own, and what is in both is there once."""
    merged: list[Json] = []
    rest = list(recorded)
    for source in current:
        if source in rest:
            upto = rest.index(source) + 1
            merged += rest[:upto]
            rest = rest[upto:]
        else:
            # Injectors add at the end.
            if all(map(secret_of, rest)):
                merged += rest
                rest = []
            merged.append(source)
    return merged + rest
