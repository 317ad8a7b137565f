"""Settings: flags beat the environment, which beats the defaults; what cannot work is refused by name."""

import argparse
from typing import Any

import pytest

from keyshred.config import (
    CheckSettings,
    CommonSettings,
    ControllerSettings,
    EvaluationSettings,
    WebhookSettings,
    add_arguments,
    read,
)
from keyshred.errors import ConfigInvalid

REQUIRED = {"token_uri": "pkcs11:token=t", "tls_cert": "c.pem", "tls_key": "k.pem"}


def webhook(**flags: str) -> WebhookSettings:
    return read(WebhookSettings, REQUIRED | flags, {})


def test_defaults() -> None:
    settings = webhook()
    assert (settings.port, settings.workers, settings.policy_max_age) == (8443, 2, 1.0)
    assert read(ControllerSettings, {"token_uri": "x"}, {}).resync == 60.0


def test_flags_beat_the_environment_and_that_the_default() -> None:
    environ = {"KEYSHRED_PORT": "1", "KEYSHRED_WORKERS": "3", "KEYSHRED_TOKEN_URI": "from the environment"}
    settings = read(WebhookSettings, REQUIRED | {"port": "2"}, environ)
    assert (settings.port, settings.workers, settings.token_uri) == (2, 3, "pkcs11:token=t")
    assert settings.log_level == "INFO"


def test_every_missing_option_is_named_both_ways() -> None:
    with pytest.raises(ConfigInvalid) as caught:
        read(CheckSettings, {}, {})
    assert str(caught.value) == "missing: --url (or KEYSHRED_URL), --ca (or KEYSHRED_CA)"


@pytest.mark.parametrize(
    "flags", [{}, {"tls_key": "k"}, {"tls_cert": "c"}, {"tls_secret": "s", "tls_cert": "c", "tls_key": "k"}]
)
def test_a_certificate_comes_in_one_of_two_ways(flags: dict[str, str]) -> None:
    with pytest.raises(ConfigInvalid, match="--tls-cert and --tls-key, or --tls-secret"):
        read(WebhookSettings, {"token_uri": "x"} | flags, {})
    assert read(WebhookSettings, {"token_uri": "x", "tls_secret": "s"}, {}).tls_secret == "s"


@pytest.mark.parametrize(
    "flags",
    [
        {"port": "x"},
        {"port": ""},
        {"port": "1.5"},
        {"hsm_deadline": "soon"},
        {"port": "-1"},
        {"port": "65536"},
        {"hsm_deadline": "0"},
        {"hsm_deadline": "-0.1"},
        {"hsm_deadline": "nan"},
        {"hsm_deadline": "inf"},
        {"hsm_queue": "0"},
        {"max_body": "0"},
        {"workers": "0"},
        {"workers": "65"},
        {"compare_misses": "-1"},
        {"token_review_ttl": "10.1"},
        {"token_review_ttl": "nan"},
        {"policy_max_age": "1.1"},
        {"policy_max_age": "nan"},  # compares as nothing: no policy would ever be too old
        {"policy_max_age": "0.4"},
        {"policy_max_age": "0"},
        {"policy_confirm_every": "0"},
        {"policy_confirm_every": "1"},
        {"client_name": "apiserver"},
        {"log_level": "DEBUG"},
        {"log_level": "info"},
    ],
)
def test_what_cannot_work(flags: dict[str, str]) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        webhook(**flags)
    named = str(caught.value)
    assert any(f"--{name.replace('_', '-')}" in named for name in flags)


@pytest.mark.parametrize(
    "flags",
    [
        {"port": "0"},
        {"port": "65535"},
        {"workers": "64"},
        {"compare_misses": "0"},
        {"token_review_ttl": "0"},
        {"policy_max_age": "0.5"},
        {"client_name": "apiserver", "client_ca": "ca.pem"},
        {"client_ca": "ca.pem"},
    ],
)
def test_what_can(flags: dict[str, str]) -> None:
    webhook(**flags)


def test_the_controller_does_not_spin() -> None:
    with pytest.raises(ConfigInvalid, match="--resync"):
        read(ControllerSettings, {"token_uri": "x", "resync": "0"}, {})


@pytest.mark.parametrize("cls", [WebhookSettings, ControllerSettings])
def test_every_option_is_a_flag_with_help(cls: type[CommonSettings]) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser, cls)
    text = " ".join(parser.format_help().split())
    for name in cls.__dataclass_fields__:
        assert f"--{name.replace('_', '-')}" in text
        assert f"env KEYSHRED_{name.upper()})" in text.replace("- ", "-")
    given: dict[str, Any] = vars(parser.parse_args(["--token-uri", "x"]))
    assert given == {"token_uri": "x"}


def test_settings_are_frozen() -> None:
    with pytest.raises(AttributeError):
        webhook().port = 1  # type: ignore[misc]


@pytest.mark.parametrize(("raw", "value"), [("true", True), ("false", False), ("True", True)])
def test_true_and_false(raw: str, value: bool) -> None:
    assert read(EvaluationSettings, {"make": raw}, {}).make is value


@pytest.mark.parametrize("raw", ["yes", "1", ""])
def test_what_is_neither_true_nor_false(raw: str) -> None:
    with pytest.raises(ConfigInvalid, match=r"--make: .* is not a true or false"):
        read(EvaluationSettings, {"make": raw}, {})
