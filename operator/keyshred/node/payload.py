"""Which files a volume has, as the kubelet makes them of Secrets (k8s pkg/volume/secret and projected). Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from keyshred.errors import NotFound, Refused
from keyshred.policy import env_file
from keyshred.policy.volumes import Content, Files, Source, Variable

MODE_OF_VARIABLES: Final = 0o444
"""The init container that copies them is any user, and nobody else mounts the volume."""

Values = Mapping[str, Mapping[str, bytes] | None]
"""By Secret and key. None, or not in it: there is no such Secret."""


@dataclass(frozen=True, slots=True)
class File:
    """What a file is to hold, and its permission bits before an fsGroup adds its own."""

    data: bytes = field(repr=False)
    mode: int
    secret: str = field(default="", compare=False)
    """Whose value it is."""


def build(content: Content, values: Values) -> dict[str, File]:
    """The files of a volume by their paths.

    Raises NotFound for a Secret or key that is missing and not optional, Refused for a value that no variable can have.
    """
    if isinstance(content, Files):
        files: dict[str, File] = {}
        for source in content.sources:
            files |= _files(source, values.get(source.secret), content.default_mode)
        return files
    return {v.path: File(_variable(v, values.get(v.secret)), MODE_OF_VARIABLES, v.secret) for v in content.values}


def _files(source: Source, values: Mapping[str, bytes] | None, default_mode: int) -> dict[str, File]:
    if values is None:
        if not source.optional:
            raise _missing(source.secret)
        return {}
    # An empty list is as none to the kubelet.
    if not source.items:
        return {key: File(value, default_mode, source.secret) for key, value in values.items()}
    files = {}
    for item in source.items:
        if item.key in values:
            mode = default_mode if item.mode is None else item.mode
            files[item.path] = File(values[item.key], mode, source.secret)
        elif not source.optional:
            raise _missing(source.secret, item.key)
    return files


def _variable(variable: Variable, values: Mapping[str, bytes] | None) -> bytes:
    if values is None or variable.key not in values:
        if not variable.optional:
            raise _missing(variable.secret, None if values is None else variable.key)
        # fileKeyRef passes over a missing key where it is optional, but not over a missing file.
        return b""
    value = values[variable.key]
    if reason := env_file.unfit(value):
        raise Refused(f"the value of key {variable.key} of Secret {variable.secret} fits no variable: {reason}")
    return env_file.render(value)


def _missing(secret: str, key: str | None = None) -> NotFound:
    return NotFound(f"Secret {secret} does not exist" if key is None else f"Secret {secret} has no key {key}")
