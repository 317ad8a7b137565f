"""What a line of the log looks like, and what it never holds."""

import datetime
import logging
import re
import sys
from types import TracebackType
from typing import Final

import orjson

_TOKEN: Final = re.compile(
    r"eyJ[\w-]{6,}\.[\w-]{6,}\.[\w-]*"  # a JSON Web Token
    r"|(?<=[Bb]earer )[\w.~+/=-]{8,}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
    r"|(?<=pin-value=)[^&\s'\"]+"
    r"|S1NIM[\w+/=-]{20,}"  # a sealed value in base64
    r"|(?<=KSH1)\S{16,}",
    re.DOTALL,
)
_ErrorInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
_REDACTED: Final = "[redacted]"


def redact(text: str) -> str:
    """The text without what looks like a token, a private key, a PIN or a sealed value.

    A second line of defence: nothing that keyshred logs has one, and this is for what a library might.
    """
    return _TOKEN.sub(_REDACTED, text)


def place_of(error: BaseException) -> str:
    """Type and place of an error for the log, and no more: a message, or a traceback's locals, could hold a value."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f" at {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else ""
    return type(error).__name__ + place


class TextFormatter(logging.Formatter):
    """For people at a terminal."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter.format."""
        record.exc_text = None  # another handler's, perhaps with the whole traceback
        return redact(super().format(record))

    def formatException(self, ei: _ErrorInfo) -> str:
        """Type and place alone."""
        return place_of(ei[1]) if ei[1] is not None else ""


class JsonFormatter(logging.Formatter):
    """One object a line: time, level, logger, process, message, and error where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter.format."""
        moment = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        line = {
            "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "process": record.process,
            "message": redact(record.getMessage()),
        }
        if record.exc_info and record.exc_info[1] is not None:
            line["error"] = place_of(record.exc_info[1])
        return orjson.dumps(line).decode()


FORMATS: Final = {"text": TextFormatter, "json": JsonFormatter}


def configure(level: str, form: str) -> None:
    """Logs to stderr, all that this process has to say: warnings and errors that nobody caught, too."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(FORMATS[form]())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(True)
    sys.excepthook = _uncaught


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    logging.getLogger("keyshred").critical("ended by an error that nobody expected: %s", place_of(error))
