"""Environments with values of Secrets, and what stands in for them: fileKeyRef to files that an init container copies.

The kubelet takes envFrom first and env over it, each in order, and skips an optional fileKeyRef whose value is empty
(Kubernetes, pkg/kubelet/kubelet_pods.go, makeEnvironmentVariables). So an empty entry goes before each that is empty or
may be. Not before the others: the API server warns of names that come twice.
"""

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from keyshred.policy.env_file import KEY
from keyshred.policy.pod_bounds import Room
from keyshred.policy.pod_terms import ENV_VOLUME, Json, Object, Terms, at, canonical, listed, put, refused, text
from keyshred.policy.volumes import Variable

_SHOWN: Final = 10
"""Names in a message."""


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
    """Name of the Secret of an entry of env; empty: it has none, or one that Kubernetes itself refuses."""
    ref = at(entry, "valueFrom", "secretKeyRef")
    return text(ref, "name") if text(ref, "key") else ""


def secret_of_source(source: Object) -> str:
    """The same of an entry of envFrom."""
    return text(source, "secretRef", "name")


def is_native(container: Object, terms: Terms) -> bool:
    """Whether it has values of Secrets from Kubernetes that it should have from us."""
    return any(not terms.keeps(secret) for secret in secrets(container))


def secrets(container: Object) -> frozenset[str]:
    """Names of the Secrets that its environment has from Kubernetes."""
    # Most variables have values of their own, and pods without Secrets are to cost nothing.
    env = [e for e in listed(container, "env") if isinstance(e, dict) and "valueFrom" in e]
    found = {*map(secret_of, env), *map(secret_of_source, listed(container, "envFrom"))}
    return frozenset(found - {""})


def count(container: Object) -> int:
    """How many variables of its environment come from us."""
    return sum(1 for entry in listed(container, "env") if path_of(entry))


def convert(container: Object, where: str, terms: Terms, room: Room) -> Converted:
    """The environment from files.

    Raises Refused for a Secret or an order of sources that this cannot be done with, and where there is no room.
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

    for name, use in _expanded(container, where, terms, room).items():
        add({"name": name}, use)
    for index, entry in enumerate(listed(container, "env")):
        if _moves(secret_of(entry), terms):
            ref, place = entry["valueFrom"]["secretKeyRef"], f"{where}.env[{index}].valueFrom.secretKeyRef"
            room.take(place, 1)
            add(entry, Use(Variable(ref["name"], ref["key"], ref.get("optional") is True), place))
        else:
            env.append(entry)
    env_from = [source for source in listed(container, "envFrom") if not _moves(secret_of_source(source), terms)]
    return Converted(env, env_from, tuple(uses))


def native(container: Object, recorded: Mapping[str, list[Json]]) -> Json:
    """The container with env and envFrom as they were before `convert`, by what was recorded of them.

    What others have added since stays where it is.
    """
    env = listed(container, "env")
    kept, expanded = _unconverted(env, recorded.get("env", env), recorded.get("envFrom", ()))
    before = dict(container)
    put(before, "env", kept)
    # A record that came along with a copied manifest says nothing about this container.
    if expanded:
        put(before, "envFrom", _merged(listed(container, "envFrom"), recorded["envFrom"]))
    return before


def path_of(entry: Object) -> str:
    """The file of ours that an entry of env is filled from; empty: none."""
    ref = at(entry, "valueFrom", "fileKeyRef")
    return text(ref, "path") if at(ref, "volumeName") == ENV_VOLUME else ""


def is_empty(entry: Object) -> bool:
    """Whether an entry of env sets the empty string; the API server leaves `value` out then."""
    return not at(entry, "value") and not at(entry, "valueFrom")


def path_of_native(entry: Object) -> str:
    """The file that an entry with a secretKeyRef is filled from; empty: it has none."""
    ref = at(entry, "valueFrom", "secretKeyRef")
    return Variable(ref["name"], ref["key"]).path if ref and secret_of(entry) else ""


def _moves(secret: str, terms: Terms) -> bool:
    return bool(secret) and not terms.keeps(secret)


def _expanded(container: Object, where: str, terms: Terms, room: Room) -> dict[str, Use]:
    """By variable, what envFrom takes from Secrets of ours, in the order of its sources and of their keys."""
    found: dict[str, Use] = {}
    overridden: dict[str, str] = {}
    for index, source in enumerate(listed(container, "envFrom")):
        secret, prefix, place = secret_of_source(source), text(source, "prefix"), f"{where}.envFrom[{index}]"
        if not _moves(secret, terms):
            room.compare(place, len(found))
            for name in _given_by(source, found, terms):
                overridden[name] = f"Secret {secret}" if secret else f"ConfigMap {text(source, 'configMapRef', 'name')}"
            continue
        place = f"{place}.secretRef"
        if secret not in terms.secrets and source["secretRef"].get("optional") is not True:
            raise refused(
                place,
                f"Secret {secret} does not exist, so its keys are not known yet",
                "create it first, or name the variables with env[].valueFrom.secretKeyRef, which wait for it",
            )
        keys = terms.keys(secret)
        room.take(place, len(keys), prefix)
        for key in sorted(keys):
            found.pop(prefix + key, None)  # its place is the later one's
            overridden.pop(prefix + key, None)
            # A key that goes before the pod starts is not there natively either.
            found[prefix + key] = Use(Variable(secret, key, True), place)
    if overridden:
        first = found[min(overridden)]
        raise refused(
            first.where,
            f"a later source ({_some(overridden.values())}) overrides variables of Secret {first.variable.secret}, and "
            f"that order cannot be kept: {_some(overridden)}",
            "put the secretRef after it, give one of them a prefix, or name the variables in env",
        )
    return found


def _given_by(source: Object, variables: Iterable[str], terms: Terms) -> Iterator[str]:
    """Those of the variables that a source which is not ours has, too."""
    keys = terms.keys(secret_of_source(source)) or terms.config_map_keys.get(
        text(source, "configMapRef", "name"), frozenset()
    )
    prefix = text(source, "prefix")
    return (name for name in variables if name.startswith(prefix) and name[len(prefix) :] in keys)


def _some(names: Iterable[str]) -> str:
    """The first of them, for a message."""
    each = sorted(set(names))
    more = len(each) - _SHOWN
    return ", ".join(each[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _check_value(use: Use, terms: Terms) -> None:
    secret, key = use.variable.secret, use.variable.key
    known = terms.secrets.get(secret)
    if known and known.unfit and (reason := known.unfit.get(key)):
        raise refused(
            use.where,
            f"the value of key {key} of Secret {secret} fits no variable that comes from a file: {reason}",
            "mount it as a file",
        )


def _unconverted(env: list[Json], recorded: Sequence[Json], sources: Iterable[Json]) -> tuple[list[Json], bool]:
    """The env as it was, and whether something in it came from the recorded envFrom."""
    kept: list[Json] = []
    expanded = False
    places: dict[tuple[str, str], list[int]] = defaultdict(list)
    for place, entry in enumerate(recorded):
        if path := path_of_native(entry):
            places[entry["name"], path].append(place)
    prefixes: dict[str, set[str]] = defaultdict(set)
    for source in sources:
        prefixes[secret_of_source(source)].add(text(source, "prefix"))
    at_most = len(recorded)  # both lists have the same order, and what came from envFrom is before the rest
    index = len(env) - 1
    while index >= 0:
        entry = env[index]
        path, name = path_of(entry), entry["name"]
        index -= 1
        if not path:
            kept.append(entry)
            continue
        own = index >= 0 and env[index]["name"] == name and is_empty(env[index])
        same = places.get((name, path), [])
        while same and same[-1] >= at_most:
            same.pop()
        if same:
            at_most = match = same.pop()
            kept.append(recorded[match])
            # Somebody's own empty entry before an optional one that was not there looks like ours.
            theirs = match > 0 and recorded[match - 1]["name"] == name and is_empty(recorded[match - 1])
            second = index > 0 and env[index - 1]["name"] == name and is_empty(env[index - 1])
            index -= own and (second or not theirs)
        elif _came_from(prefixes, name, path):
            expanded = True
            index -= own
        else:
            kept.append(entry)
    return kept[::-1], expanded


def _came_from(prefixes: Mapping[str, set[str]], name: str, path: str) -> bool:
    secret, _, key = path.partition("/")
    return bool(secret) and name.endswith(key) and name.removesuffix(key) in prefixes.get(secret, ())


def _merged(current: list[Json], recorded: list[Json]) -> list[Json]:
    """Both lists in one: each has the order of its own, and what is in both is there once."""
    merged: list[Json] = []
    places: dict[bytes, deque[int]] = defaultdict(deque)
    for place, source in enumerate(recorded):
        places[canonical(source)].append(place)
    foreign = max((place for place, source in enumerate(recorded) if not secret_of_source(source)), default=-1)
    upto = 0
    for source in current:
        same = places.get(canonical(source), deque())
        while same and same[0] < upto:
            same.popleft()
        if same:
            merged += recorded[upto : same[0] + 1]
            upto = same[0] + 1
        else:
            # Injectors add at the end.
            if upto > foreign:
                merged += recorded[upto:]
                upto = len(recorded)
            merged.append(source)
    return merged + recorded[upto:]
