"""Who reaches a service's port without its token: raw HTTP/2, as no library would send it."""

import contextlib
import re
import socket
import struct
import zlib
from pathlib import Path

import hpack

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS_ACK = b"\0\0\0\4\1\0\0\0\0"
FLIGHT = "/arrow.flight.protocol.FlightService/"
UNARY = ("DoAction", "ListFlights", "GetFlightInfo", "GetSchema", "DoGet", "PollFlightInfo", "ListActions")


def frame(kind, flags, stream, payload):
    """Return one HTTP/2 frame."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def header_block(method="DoAction", **more):
    """Return the headers of a gRPC call, compressed; names with _ for -."""
    plain = {":method": "POST", ":scheme": "http", ":path": FLIGHT + method, ":authority": "x"}
    extra = {name.replace("_", "-"): value for name, value in more.items()}
    grpc = {"te": "trailers", "content-type": "application/grpc"}
    return hpack.Encoder().encode({**plain, **grpc, **extra})


def opening(block, end=4):
    """Return a connection's first bytes: preface, settings, their acknowledgement, and the headers of one call."""
    return PREFACE + frame(4, 0, 0, b"") + SETTINGS_ACK + frame(1, end, 1, block)


def message(content, compressed, length=None):
    """Return a gRPC message; its prefix may tell another length than it has."""
    return bytes([compressed]) + struct.pack(">I", len(content) if length is None else length) + content


def data_frames(content, stream=1):
    """Return a message as DATA frames of 16 KiB, the largest that a server must take."""
    size = 1 << 14
    return b"".join(frame(0, 0, stream, content[n : n + size]) for n in range(0, len(content), size))


def gzip_bomb(mib):
    """Return so many MiB of zeros as gzip, a thousandth of that: blocks after a full flush may be repeated."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    checksum = 0
    for _ in range(mib):
        checksum = zlib.crc32(bytes(1 << 20), checksum)
    end = b"\3\0" + struct.pack("<II", checksum, (mib << 20) & 0xFFFFFFFF)
    return b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + block * mib + end


def connect(endpoint, raw=b""):
    """Return a socket that has sent this, as far as the other side took it."""
    host, _, port = endpoint.rpartition(":")
    one = socket.create_connection((host, int(port)), timeout=5)
    one.settimeout(2)
    with contextlib.suppress(OSError):
        one.sendall(raw)
    return one


def answer(one):
    """Return what a socket reads until it ends or is silent for its time."""
    got = b""
    try:
        while part := one.recv(65536):
            got += part
    except OSError:
        pass
    return got


def reset_peak(pid):
    """Return a process's resident MiB, from which its peak is counted anew."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return memory(pid, "VmRSS")


def memory(pid, what="VmHWM"):
    """Return a process's peak resident memory in MiB, or another line of its status."""
    return int(re.search(rf"{what}:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) / 1024
