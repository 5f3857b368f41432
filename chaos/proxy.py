"""A TCP proxy between two parts of the platform that can be told to fail the ways networks fail."""

import asyncio
import socket
import struct
from collections.abc import Coroutine
from contextlib import suppress
from threading import Thread
from typing import Any

PIECE = 65_536
MODES = ("open", "cut", "hole", "slow", "slice")
LATENCY_SECONDS = 0.1
SLICE_BYTES = 512
_RESET = struct.pack("ii", 1, 0)  # linger for no time: closing sends a reset


class Proxy:
    """One link: listens on `port`, connects on to `target`, and behaves as its mode says.

    `open` passes everything on. `cut` resets what is connected and whoever tries. `hole` accepts and holds everything
    back until it is over. `slow` delays each piece. `slice` passes on in small pieces.
    """

    def __init__(self, name: str, *, port: int, target: tuple[str, int]) -> None:
        self.name, self.port, self._target = name, port, target
        self.mode = "open"
        self.connections = 0
        self._passing = asyncio.Event()
        self._writers: set[asyncio.StreamWriter] = set()

    async def serve(self) -> None:
        """Serves for as long as the network's loop runs."""
        self._passing.set()
        await asyncio.start_server(self._accept, "127.0.0.1", self.port, limit=PIECE)

    async def turn(self, mode: str) -> None:
        """Changes the mode, for what is connected as well."""
        self.mode = mode
        self._passing.clear() if mode == "hole" else self._passing.set()
        if mode == "cut":
            for writer in list(self._writers):
                _reset(writer)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self.mode == "cut":
            return _reset(writer)
        await self._passing.wait()
        try:
            onward, back = await asyncio.open_connection(*self._target, limit=PIECE)
        except OSError:
            return _reset(writer)
        self._writers |= {writer, back}
        try:
            await asyncio.gather(self._pass(reader, back), self._pass(onward, writer))
        finally:
            self._writers -= {writer, back}

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):  # either end may be gone at any moment
            while piece := await reader.read(PIECE):
                await self._passing.wait()
                if self.mode == "slow":
                    await asyncio.sleep(LATENCY_SECONDS)
                await self._write(writer, piece)
        with suppress(OSError):
            writer.close()

    async def _write(self, writer: asyncio.StreamWriter, piece: bytes) -> None:
        size = SLICE_BYTES if self.mode == "slice" else PIECE
        for start in range(0, len(piece), size):
            writer.write(piece[start : start + size])
            await writer.drain()
            if size == SLICE_BYTES:
                await asyncio.sleep(0)


def _reset(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()


class Network:
    """The proxies of one run, on a thread of their own."""

    def __init__(self) -> None:
        self.links: dict[str, Proxy] = {}
        self._loop = asyncio.new_event_loop()
        Thread(target=self._loop.run_forever, name="network", daemon=True).start()

    def add(self, name: str, *, port: int, target: tuple[str, int]) -> Proxy:
        """A new link, open."""
        proxy = Proxy(name, port=port, target=target)
        self._do(proxy.serve())
        self.links[name] = proxy
        return proxy

    def turn(self, name: str, mode: str) -> None:
        """Changes how a link behaves."""
        self._do(self.links[name].turn(mode))

    def close(self) -> None:
        """Ends every connection and the thread."""
        for name in self.links:
            self.turn(name, "cut")
        self._loop.call_soon_threadsafe(self._loop.stop)

    def _do(self, what: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(what, self._loop).result(10)
