"""Does the same with a token again and again, and is killed at the point that it is told.

`python -m tests.contract.victim URI METHOD ARGUMENT...`, with faults.so preloaded. Each line of its input is the number
of a point; it is answered with the exit status of a process that did it, 0 or that of its death.
"""

import ctypes
import os
import sys
from collections.abc import Callable
from uuid import UUID

from keyshred.hsm import uri as token_uri
from keyshred.hsm.device import Pkcs11Device
from keyshred.hsm.interface import KeyRef
from keyshred.hsm.pin import PinFile

CHANGES: dict[str, Callable[..., object]] = {
    "status": lambda device: device.status(),
    "generate": lambda device, key_id: device.generate(KeyRef(UUID(key_id), 1)),
    "destroy": lambda device, key_id: device.destroy(UUID(key_id)),
    "set_head": lambda device, key_id, head: device.set_head(UUID(key_id), bytes.fromhex(head)),
    "set_claim": lambda device, key_id, uid, claimed: device.set_claim(UUID(key_id), uid, claimed == "True"),
}


def main(uri: str, method: str, *arguments: str) -> None:
    parsed = token_uri.parse(uri)
    for line in sys.stdin:
        # The module is loaded after the fork, as it must be.
        child = os.fork()
        if child == 0:
            device = Pkcs11Device(parsed, PinFile(parsed.pin_source))
            if method != "status":
                device.status()
            ctypes.CDLL(None).kill_at(ctypes.c_long(int(line)))
            CHANGES[method](device, *arguments)
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
