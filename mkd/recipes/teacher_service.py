"""launch/teacher.py serve and status: one teacher inference service, and its status."""

import json
import os
import signal
import socket
import ssl
import threading
from functools import partial
from pathlib import Path

import torch

from mkd.cli.log_lines import route_log_lines, say_on_stderr
from mkd.config import schema
from mkd.config.load import from_yaml
from mkd.distributed.engine import autocast
from mkd.distributed.world import find_world
from mkd.model_folder import ModelCard
from mkd.models.segmentation import SegmentationNetwork
from mkd.recipes import factories
from mkd.teacher import protocol, weights
from mkd.teacher.auth import TOKEN_VARIABLE, make_token, read_token, run_token
from mkd.teacher.client.flight_client import Access, FlightClient
from mkd.teacher.server.batcher import Batcher
from mkd.teacher.server.listener import listen, tls_context
from mkd.teacher.server.metrics import describe
from mkd.teacher.server.service import Limits, ServerConfig, TeacherServer

WEIGHTS = Path("teacher") / "weights.safetensors"  # in a run folder
_say = say_on_stderr("teacher")
DRAIN_SECONDS = 20.0  # seconds that the last answers may take


def serve(config: schema.TeacherServe) -> None:
    """Serve until SIGTERM or SIGINT, then answer what was asked and return.

    Raises:
        ValueError: a path, token or address that does not do; one sentence.
        RuntimeError: the thread that labels has died.
    """
    start = config.model or _start_model_of(config.run)
    tls, token = _tls(config), _find_token(config)
    host = f"[{config.host}]" if ":" in config.host and config.host[0] != "[" else config.host
    _check_free(host, config.port)
    device = find_world(config.device).device
    model, card = factories.load_checked("model", start)
    header = _newest_weights(config.run, model)
    model.to(device).requires_grad_(False)
    batcher = Batcher(
        model,
        header,
        device=device,
        autocast=partial(autocast, device),
        max_batch=config.max_batch,
        wait_s=config.wait_ms / 1e3,
        depth=config.queue,
    )
    threads = f"cpu ({torch.get_num_threads()} threads)"
    server_config = ServerConfig(
        identity_of(card),
        Limits(config.max_batch, config.max_tile, config.queue),
        token,
        host=host,
        port=config.port,
        tls=tls,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else threads,
    )
    with route_log_lines(_say, "mkd.teacher"):
        _serve_until_signal(TeacherServer(batcher, server_config), batcher, host, server_config.device)


def _find_token(config: schema.TeacherServe) -> str:
    """Return the token that students must show.

    Raises:
        ValueError: none is given; without one, whoever reaches the port could make the service take all memory.
    """
    token = read_token(_token_file(config))
    if token is None:
        raise ValueError(
            "there is no token, and a service answers nobody without one; give run=RUN, whose token RUN.token is then "
            f"made, or token_file=FILE (make one: openssl rand -hex 32 >FILE; chmod 600 FILE), or {TOKEN_VARIABLE}"
        )
    return token


def _token_file(config: schema.TeacherServe) -> str | None:
    """Return the token file: of a run, RUN.token, which is made; None when the environment holds the token."""
    if config.token_file is not None or config.run is None or TOKEN_VARIABLE in os.environ:
        return config.token_file
    path = run_token(config.run)
    made = make_token(path)
    _say(f"students and status need token_file={path} ({'made now' if made else 'it was there'})")
    return str(path)


def _serve_until_signal(server: TeacherServer, batcher: Batcher, host: str, name: str) -> None:
    """Print that the service is ready, wait for SIGTERM or SIGINT, and stop cleanly."""
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    shown = socket.gethostname() if host in ("0.0.0.0", "[::]") else host
    session = batcher.header.session or "none"
    endpoint = f"{shown}:{server.port}"
    print(
        f"teacher ready endpoint={endpoint} version={batcher.header.version} session={session} device={name}",
        flush=True,
    )
    # The signal handler sets the event; the main thread waits for it and looks at the labelling thread twice a second.
    while batcher.is_alive() and not stopped.wait(0.5):
        pass
    died = not batcher.is_alive()
    all_gone = server.drain(DRAIN_SECONDS)
    print(f"teacher stopped endpoint={endpoint} tiles={batcher.gauge.tiles}", flush=True)
    fault = "the thread that labels has died; its error is above"
    if not all_gone:  # a client that does not hang up would keep the process for ever
        if died:
            _say(fault)
        os._exit(int(died))
    if died:
        raise RuntimeError(fault)


def status(config: schema.TeacherStatus) -> None:
    """Print a service's status, for people or as one line of JSON.

    Raises:
        ValueError: it does not answer, or the token is wrong.
    """
    access = Access(None, read_token(config.token_file), read_pem("tls_ca", config.tls_ca))
    try:
        found = FlightClient(config.endpoint, access).status()
    except (OSError, ValueError) as error:
        raise ValueError(f"endpoint={config.endpoint}: {error}") from None
    try:
        print(json.dumps(found, sort_keys=True) if config.json else describe(config.endpoint, found))
    except (KeyError, TypeError, ValueError, AttributeError):
        raise ValueError(
            f"endpoint={config.endpoint}: no teacher answers there, its status cannot be read; give that of a teacher"
        ) from None


def identity_of(card: ModelCard) -> protocol.Identity:
    """Return what student and teacher must have in common, from the card of either's model folder."""
    return protocol.identity(card.architecture.to_dict(), card.classes)


def read_pem(key: str, path: str | None) -> bytes | None:
    """Return the content of a PEM file, or None without a path.

    Raises:
        ValueError: it cannot be read or is not PEM.
    """
    if path is None:
        return None
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"{key}={path}: cannot be read ({error.strerror}); give a PEM file") from None
    if b"-----BEGIN" not in content:
        raise ValueError(f"{key}={path} is not a PEM file; give one that begins with -----BEGIN")
    return content


def _tls(config: schema.TeacherServe) -> ssl.SSLContext | None:
    cert, key = read_pem("tls_cert", config.tls_cert), read_pem("tls_key", config.tls_key)
    return None if cert is None or key is None else tls_context(cert, key)


def _check_free(host: str, port: int) -> None:
    """Refuse an address that cannot be listened on before anything is loaded."""
    try:
        listen(host, port).close()
    except OSError as error:
        raise ValueError(
            f"host={host} port={port}: cannot be listened on ({error.strerror}); give another, or port=0"
        ) from None


def _start_model_of(run: str | None) -> str:
    """Return the model folder that a run of the semi-supervised stage started from."""
    path = Path(run or "") / "config.yaml"
    try:
        return from_yaml(schema.SemiRun, path.read_text(encoding="utf-8")).semi.start
    except Exception as error:  # a YAML of another stage raises what its parser likes
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"run={run}: {path} is not the config of a semi-supervised run ({reason}); give model= too"
        ) from None


def _newest_weights(run: str | None, model: SegmentationNetwork) -> protocol.WeightsVersion:
    """Load the newest weights that a run has published, if any; return the version that the model has."""
    path = None if run is None else Path(run) / WEIGHTS
    if path is None or not path.is_file():
        return protocol.WeightsVersion("", 0, 0)
    state, header = weights.read_file(path, weights.layout(model))
    model.load_state_dict(state)
    return header
