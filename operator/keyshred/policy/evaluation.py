"""The evaluation mode's software token: made once, and never again in place of one that is missing."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from keyshred.errors import NotReady, TokenMismatch
from keyshred.names import PINS_SECRET, TOKEN_CONFIG_MAP


class Step(StrEnum):
    """What to do about the token."""

    MAKE = "Make"
    """PINs and token are made."""
    SET_ASIDE = "SetAside"
    """What is in the folder is another cluster's, and nobody has its PINs: it is kept beside it."""
    RECORD = "Record"
    """The token is there, and the cluster is told so."""
    USE = "Use"


@dataclass(frozen=True, slots=True)
class Found:
    """What is there."""

    serial: str | None
    """Of the token in the folder; None: there is none."""
    pins: bool
    """Whether the Secret with its PINs is there."""
    record: Mapping[str, str] | None
    """Data of the ConfigMap that remembers the token; None: no such ConfigMap."""
    storage: str
    """`pvc` or `node`."""
    node: str
    """This one."""


def next_step(found: Found, *, make: bool) -> Step:
    """What comes next. `make`: whether this process is the one that makes what was never there.

    Raises TokenMismatch where the keys of this cluster are elsewhere, NotReady where another process has to come first.
    """
    if found.record is not None:
        _check_record(found, found.record)
    if found.serial is None:
        if make:
            return Step.MAKE
        raise NotReady("the token is not made yet; the controller's pod makes it")
    if not found.pins and found.record is None:
        # Of a cluster that was here before, or whose namespace of keyshred was deleted; this one knows of no key in it.
        if make:
            return Step.SET_ASIDE
        raise NotReady("the token is not made yet; the controller's pod makes it")
    if not found.pins:
        raise TokenMismatch(
            f"the token (serial {found.serial}) is there, and the Secret {PINS_SECRET} with its PINs is not: restore "
            "it from a backup; without it nothing in the token can be used"
        )
    if found.record is None:
        if make:
            return Step.RECORD
        raise NotReady(f"the ConfigMap {TOKEN_CONFIG_MAP} is not there yet; the controller's pod makes it")
    return Step.USE


def _check_record(found: Found, record: Mapping[str, str]) -> None:
    serial, mode = record.get("serial", ""), record.get("mode", "")
    given_up = (
        f"If you give up the keys in it, and what is sealed under them, delete the ConfigMap {TOKEN_CONFIG_MAP} "
        "(docs/install.md, 'Another token')"
    )
    if mode != "evaluation":
        raise TokenMismatch(
            f"the keys of this cluster are in the token {record.get('label')} (serial {serial}) of mode {mode}: set "
            f"that mode again. {given_up}"
        )
    if found.serial is None:
        raise TokenMismatch(f"{_whereabouts(found, record, serial)}. {given_up}")
    if found.serial != serial:
        raise TokenMismatch(
            f"the token here has the serial {found.serial}, and the keys of this cluster are in the one with {serial}: "
            f"bring that one back. {given_up}"
        )


def _whereabouts(found: Found, record: Mapping[str, str], serial: str) -> str:
    storage, node = record.get("storage", found.storage), record.get("node", "")
    if storage != found.storage:
        return (
            f"the token with the keys of this cluster (serial {serial}) is on storage {storage}, and this pod has "
            f"storage {found.storage}: set evaluation.storage to {storage}"
        )
    if storage == "node" and node != found.node:
        return (
            f"the token with the keys of this cluster (serial {serial}) is on node {node}, and this pod runs on "
            f"{found.node}: set evaluation.nodeName to {node}, or copy the folder"
        )
    return (
        f"the token with the keys of this cluster (serial {serial}) is gone from its folder: restore it from a backup"
    )
