"""Values as files that a kubelet fills environments from (KEP-3721, fileKeyRef), and what such a file cannot carry."""

from typing import Final

KEY: Final = "V"
"""Name of the one variable in each file; which variable of the container it becomes is the container's to say."""
MAX_LINE: Final = 64 * 1024
"""Bytes: the kubelet reads lines with a bufio.Scanner, which gives up at this (k8s pkg/kubelet/util/env)."""


def unfit(value: bytes) -> str:
    """Why no such file can carry the value; empty: it can. The reason quotes nothing of it."""
    if b"'" in value:
        return "it has a single quote (')"
    if b"\r" in value:
        return "it has a carriage return"
    if b"\0" in value:
        return "it has a NUL byte"
    try:
        value.decode()
    except UnicodeDecodeError:
        return "it is not UTF-8"
    if any(len(line) >= MAX_LINE for line in render(value).split(b"\n")):
        return "it has a line of 64 KiB or more"
    return ""


def render(value: bytes) -> bytes:
    """The file's content, for a value that fits."""
    return KEY.encode() + b"='" + value + b"'\n"
