"""What every keyshred process does first."""

import logging
import resource
import sys


def prepare(log_level: str) -> None:
    """Logs to stderr at `log_level` and rules out core dumps, which would hold keys and plaintext."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    logging.basicConfig(
        stream=sys.stderr, level=log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )
    # Libraries print requests and bodies below INFO.
    for library in ("aiohttp", "kopf", "kubernetes", "asyncio"):
        logging.getLogger(library).setLevel(max(logging.getLevelName(log_level), logging.INFO))


def where(error: BaseException) -> str:
    """Type and place of an error for the log, and no more: a message, or a traceback's locals, could hold a value."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f" at {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else ""
    return type(error).__name__ + place


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
