"""From a loaded module to a logged-in session of the one token that the token URI means."""

import contextlib
from dataclasses import replace

from keyshred.errors import HsmUnavailable, PinRefused, TokenMismatch
from keyshred.hsm import softhsm
from keyshred.hsm.ckr import CkrError
from keyshred.hsm.pin import PinFile
from keyshred.hsm.pkcs11_token import Module, Session, TokenInfo
from keyshred.hsm.uri import TokenUri


def log_in(module: Module, uri: TokenUri, pin: PinFile, before: TokenInfo | None) -> tuple[TokenInfo, Session]:
    """The token and its session; one try of the PIN. `before`: the token that this process used so far.

    Raises HsmUnavailable, TokenMismatch, PinRefused, ConfigInvalid (the PIN file), CkrError.
    """
    try:
        identity, token = _choose(uri, module.tokens(), before)
    except HsmUnavailable:
        with contextlib.suppress(OSError):
            if softhsm.put_back():
                raise HsmUnavailable("the token's own file was empty and is put back; try again") from None
        raise
    if identity.pin_in_danger:
        raise PinRefused("the token's PIN is locked, or one wrong try away from it: a person must log in first")
    if softhsm.is_softhsm(identity):
        softhsm.ask(softhsm.keep_copy, identity.serial)
    with pin.offer() as text:
        try:
            return identity, Session(token, text)
        except CkrError as failure:
            raise failure.for_caller() from failure


def _choose(
    uri: TokenUri, tokens: "list[tuple[TokenInfo, object]]", before: TokenInfo | None
) -> "tuple[TokenInfo, object]":
    """The one token that the URI means, and no other than `before`. Raises HsmUnavailable, TokenMismatch."""
    matching = [(info, token) for info, token in tokens if _matches(uri, info)]
    if len(matching) > 1:
        raise TokenMismatch(f"{len(matching)} tokens match the token URI: add serial=")
    if not matching:
        same = [info for info, _ in tokens if _matches(replace(uri, serial=None), info)]
        if same:
            raise TokenMismatch(
                f"the token {same[0].label} that is there has the serial {same[0].serial} and not {uri.serial}: bring "
                "that one back (docs/install.md, 'Another token')"
            )
        if any(uri.token == info.label for info, _ in tokens):
            raise TokenMismatch("the token that the URI names is there, but differs in another attribute")
        raise HsmUnavailable("no token that matches the token URI is there")
    if before is not None and matching[0][0].serial != before.serial:
        raise TokenMismatch("the token was exchanged for another one")
    return matching[0]


def _matches(uri: TokenUri, token: TokenInfo) -> bool:
    asked = (
        (uri.token, token.label),
        (uri.serial, token.serial),
        (uri.manufacturer, token.manufacturer),
        (uri.model, token.model),
        (uri.slot_id, token.slot_id),
        (uri.slot_description, token.slot_description),
        (uri.slot_manufacturer, token.slot_manufacturer),
    )
    return all(wanted in (None, actual) for wanted, actual in asked)
