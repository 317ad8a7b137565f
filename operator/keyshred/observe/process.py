"""What every keyshred process does first."""

import logging
import resource

from keyshred.observe import logs
from keyshred.observe.logs import place_of as where

__all__ = ["prepare", "where", "without_details"]


def prepare(log_level: str, log_format: str = "text") -> None:
    """Logs to stderr at `log_level` and rules out core dumps, which would hold keys and plaintext."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    logs.configure(log_level, log_format)
    # Libraries print requests and bodies below INFO.
    for library in ("aiohttp", "kopf", "kubernetes", "asyncio"):
        logging.getLogger(library).setLevel(max(logging.getLevelName(log_level), logging.INFO))


def without_details(logger: logging.Logger) -> logging.Logger:
    """The logger, with exceptions cut down to their type: for libraries whose exceptions quote what was sent."""
    logger.addFilter(_blank)
    return logger


def _blank(record: logging.LogRecord) -> bool:
    if record.exc_info and record.exc_info[0]:
        record.msg, record.args = f"{record.msg}: %s", (*_arguments(record), record.exc_info[0].__name__)
        record.exc_info = record.exc_text = None
    return True


def _arguments(record: logging.LogRecord) -> tuple[object, ...]:
    return record.args if isinstance(record.args, tuple) else ()
