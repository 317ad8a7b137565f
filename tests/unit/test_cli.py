"""The command line: exit codes, and one line on stderr that says why."""

import importlib
from typing import Any

import pytest

import keyshred
from keyshred.cli.main import main
from keyshred.errors import ConfigInvalid, HsmUnavailable, Malformed, PinRefused

WEBHOOK = ["webhook", "--token-uri=pkcs11:token=t", "--tls-cert=c", "--tls-key=k"]
CONTROLLER = ["controller", "--token-uri=pkcs11:token=t"]


@pytest.fixture(params=["webhook", "controller"])
def command(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a command whose process does what it is told, and hands out the settings it got."""
    name: str = request.param
    module = importlib.import_module(f"keyshred.{name}.main")

    def run(outcome: Exception | None = None) -> tuple[int, list[Any]]:
        got: list[Any] = []

        def process(settings: Any) -> None:
            got.append(settings)
            if outcome is not None:
                raise outcome

        monkeypatch.setattr(module, "run", process)
        return main(WEBHOOK if name == "webhook" else CONTROLLER), got

    return run


def test_success(command: Any, capsys: pytest.CaptureFixture[str]) -> None:
    code, got = command()
    assert code == 0
    assert got[0].token_uri == "pkcs11:token=t"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigInvalid("no such file"), 2),
        (Malformed("token URI: no such attribute"), 2),
        (HsmUnavailable("away"), 1),
        (PinRefused("refused"), 1),
    ],
)
def test_failure(command: Any, capsys: pytest.CaptureFixture[str], error: Exception, code: int) -> None:
    assert command(error)[0] == code
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert err.startswith("keyshred ")
    assert str(error) in err


def test_a_bug_is_not_hidden(command: Any) -> None:
    with pytest.raises(ZeroDivisionError):
        command(ZeroDivisionError())


def test_missing_options(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KEYSHRED_TOKEN_URI", raising=False)
    assert main(["controller"]) == 2
    assert "missing: --token-uri" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "code", "text"),
    [
        (["--help"], 0, "webhook"),
        (["--help"], 0, "controller"),
        (["webhook", "--help"], 0, "--tls-cert"),
        (["controller", "--help"], 0, "--token-uri"),
        (["--version"], 0, keyshred.__version__),
        ([], 2, "required"),
        (["nonsense"], 2, "nonsense"),
        (["webhook", "--nonsense"], 2, "nonsense"),
    ],
)
def test_argparse(argv: list[str], code: int, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == code
    shown = capsys.readouterr()
    assert text in (shown.out if code == 0 else shown.err)


def test_a_certificate_that_is_not_there(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    # It would take the logging of the whole test run over.
    monkeypatch.setattr("keyshred.webhook.main.prepare", lambda level, form: None)
    assert main(WEBHOOK) == 2
    assert "--tls-cert c: No such file" in capsys.readouterr().err
