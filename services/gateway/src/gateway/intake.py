"""Takes requests in before a thread is given to them: a client that sends slowly costs some kilobytes, not a thread."""

import re
from socket import socket

from werkzeug.datastructures import Headers

MOST_HEAD = 64 * 1024
MOST_BODY = 64 * 1024  # larger ones are read by the thread that answers them
_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,9})[ \t]*\r\n", re.IGNORECASE)
_EXPECT = re.compile(rb"\r\nexpect:", re.IGNORECASE)


def take(connection: socket, taken: bytearray) -> bool:
    """Adds to `taken` what has come on a connection that does not block; says whether a thread can begin with it."""
    try:
        data = connection.recv(MOST_HEAD)
    except BlockingIOError:
        return False
    except OSError:
        return True  # it is gone, which whoever reads on will find
    taken += data
    return not data or is_whole(taken)


def is_whole(taken: bytes | bytearray) -> bool:
    """Whether this is a whole request, or one that has to be judged as it is: too long a head, or a long body."""
    end = taken.find(_END)
    if end < 0:
        return is_endless(taken)
    return len(taken) >= end + len(_END) + _body(taken, end + 2)


def is_endless(taken: bytes | bytearray) -> bool:
    """Whether this is a head longer than any is taken."""
    return len(taken) >= MOST_HEAD and _END not in taken


def _body(taken: bytes | bytearray, end: int) -> int:
    """The bytes of the body to wait for."""
    found = _LENGTH.search(taken, 0, end)
    if found is None or _EXPECT.search(taken, 0, end):  # whoever waits to be asked for the body will not send it now
        return 0
    length = int(found[1])
    return length if length <= MOST_BODY else 0


def holds(headers: Headers) -> bool:
    """Whether the body of a request with this head was taken in before a thread got it."""
    if "Transfer-Encoding" in headers or "Expect" in headers:
        return False
    length = headers.get("Content-Length", "0")
    return length.isdecimal() and int(length) <= MOST_BODY
