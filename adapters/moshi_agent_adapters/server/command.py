"""`moshi-agent serve`: loads the engine, and serves until it is told to stop."""

from __future__ import annotations

import inspect
import logging
import socket
import ssl
from collections.abc import Generator, Iterable
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import uvicorn

from moshi_agent import ConfigError, Engine, ReferenceWanted
from moshi_agent.checkpoint.recogniser import is_recogniser
from moshi_agent.config import KVCache
from moshi_agent.engine.reference_desk import OnReference
from moshi_agent.named_object import find_named, names_object
from moshi_agent.plural import counted
from moshi_agent.training.annotation.recogniser import NamedRecogniser, open_recogniser
from moshi_agent_adapters.recordings import Recordings
from moshi_agent_adapters.server.app import create_app
from moshi_agent_adapters.server.backend import BackendConfig
from moshi_agent_adapters.server.config import ServerConfig, is_loopback
from moshi_agent_adapters.server.descriptors import connections_that_fit, raise_descriptor_limit
from moshi_agent_adapters.server.drain import DrainingServer
from moshi_agent_adapters.server.heap import passing_over_what_stays, share_one_heap
from moshi_agent_adapters.server.http_protocol import uvicorn_options
from moshi_agent_adapters.server.listening import listen
from moshi_agent_adapters.server.log_format import LogFormat, set_up_log
from moshi_agent_adapters.server.tls import tls_context
from moshi_agent_adapters.webrtc.config import ConnectionConfig, IceServer

_log = logging.getLogger("moshi_agent.server")
_ALL_ADDRESSES = ("0.0.0.0", "::", "")
_GRACE_S = 5  # for connections, once everything has ended


@dataclass(frozen=True, kw_only=True)
class Serve:
    """What `moshi-agent serve` was asked to do."""

    server: ServerConfig
    model: str = "tiny"
    lora: str | None = None  # a file of low-rank updates
    transcribe: str | None = None  # the recogniser that writes down what callers say
    reference_encoder: str | None = None  # what makes rows of references, for a model that takes those
    voices: Path | None = None  # a folder of voices that callers may choose
    personas: bool | None = None  # the model takes roles and voices; None asks the checkpoint
    device: str = "auto"
    dtype: str | None = None  # of the language model, by PyTorch's name
    kv_cache: KVCache = "auto"
    cuda_graphs: bool = True
    capacity: int = 8
    threads: int = 1
    overcommit: bool = False  # calls are taken by the number of rows alone
    process: bool = True  # the engine in a process of its own
    hang_s: float = 30.0  # without an answer of that process, after which another one is started
    ssl_cert: Path | None = None
    ssl_key: Path | None = None
    ssl_self_signed: bool = False
    proxies: str | None = None  # addresses whose X-Forwarded-For is believed
    record: Path | None = None  # a folder for the recordings of all calls
    log_level: str = "warning"
    log_format: LogFormat = "text"


class NamedLookUp:
    """A function that looks things up. Another process to which it is sent imports it by its name.

    Args:
        name: `MODULE:NAME`, or `FILE.py:NAME`.

    Raises:
        ConfigError: there is none of that name, or it is not async.
    """

    def __init__(self, name: str) -> None:
        found = find_named(name, "what looks things up,")
        if not inspect.iscoroutinefunction(found):
            raise ConfigError(f"{name} is no async function; accepted: one that takes a ReferenceWanted")
        self._name, self._function = name, found

    async def __call__(self, wanted: ReferenceWanted) -> str | None:
        """See `OnReference`."""
        return await self._function(wanted)

    def __reduce__(self) -> tuple[type[NamedLookUp], tuple[str]]:
        return NamedLookUp, (self._name,)


def serve(asked: Serve) -> None:
    """Serves until SIGTERM or SIGINT.

    Raises:
        ConfigError: the settings do not go together, or the port is taken.
        CheckpointError: the model is missing or damaged.
    """
    if (asked.ssl_cert is None) != (asked.ssl_key is None):
        raise ConfigError("a certificate and its key go together; accepted: both, or neither")
    with _tls(asked) as (tls, certificate):  # before all that takes time
        _serve(asked, tls, certificate)


def _serve(asked: Serve, tls: ssl.SSLContext | None, certificate: Path | None) -> None:
    server = asked.server
    set_up_log(asked.log_level, asked.log_format)
    if asked.process:  # else tensors are computed here, by threads that do not wait for one another
        share_one_heap()
    most = connections_that_fit(server.most_connections, asked.capacity, raise_descriptor_limit())
    server = replace(server, most_connections=most)
    with ExitStack() as opened:
        sockets = listen(server.host, server.port)
        for one in sockets:
            opened.callback(one.close)
        _serve_at(asked, server, sockets, tls, certificate)


def _serve_at(
    asked: Serve,
    server: ServerConfig,
    sockets: list[socket.socket],
    tls: ssl.SSLContext | None,
    certificate: Path | None,
) -> None:
    port = int(sockets[0].getsockname()[1])
    engine = load_engine(asked)
    app = create_app(engine, server)
    with recording(asked, engine):
        config = uvicorn.Config(
            app,
            log_config=None,
            log_level="info" if asked.log_level == "debug" else asked.log_level,  # debug tells headers
            access_log=False,  # tokens may stand in a query
            server_header=False,
            **uvicorn_options(server, behind_proxy=asked.proxies is not None, tls=tls),
            timeout_graceful_shutdown=_GRACE_S,
            proxy_headers=asked.proxies is not None,
            forwarded_allow_ips=asked.proxies,
        )
        _announce(asked, port, certificate)
        with passing_over_what_stays():
            DrainingServer(config, app.state.server).run(sockets)


def load_engine(asked: Serve) -> Engine:
    """Loads the engine that was asked for. Raises CheckpointError, ConfigError."""
    return Engine.load(
        asked.model,
        lora=asked.lora,
        recogniser=is_recogniser(asked.model),
        transcriber=recogniser(asked.transcribe),
        reference_encoder=reference_encoder(asked.reference_encoder),
        voices=asked.voices,
        personas=asked.personas,
        device=asked.device,
        dtype=asked.dtype,
        kv_cache=asked.kv_cache,
        cuda_graphs=asked.cuda_graphs,
        capacity=asked.capacity,
        threads=asked.threads,
        process=asked.process,
        hang_s=asked.hang_s,
        admit_by_time=not asked.overcommit,
    )


@contextmanager
def recording(asked: Serve, engine: Engine) -> Generator[None]:
    """Records every call, if that is wanted.

    Raises:
        OutputError: the folder cannot be made.
        ConfigError: the model does not speak.
    """
    if asked.record is None:
        yield
        return
    if engine.model.kind == "recogniser":
        raise ConfigError("--record with a recogniser; accepted: with a model that speaks")
    _log.warning(
        "calls are recorded into %s: to ask callers for consent, and to delete what is old, is up to you",
        asked.record,
    )
    with closing(Recordings(asked.record)) as recordings:
        engine.new_tap = recordings.begin
        yield


@contextmanager
def _tls(asked: Serve) -> Generator[tuple[ssl.SSLContext | None, Path | None]]:
    """TLS, if there is to be any, and the certificate. Raises ConfigError."""
    if asked.ssl_cert is not None and asked.ssl_key is not None:
        try:
            tls = tls_context(asked.ssl_cert, asked.ssl_key)
        except OSError as error:  # one of TLS is one, too
            raise ConfigError(f"{asked.ssl_cert} and {asked.ssl_key} cannot be used: {error}") from error
        yield tls, asked.ssl_cert
    elif asked.ssl_self_signed:
        from moshi_agent_adapters.server.certificate import self_signed

        with self_signed(asked.server.host) as files:
            yield tls_context(*files), files[0]
    else:
        yield None, None


def _announce(asked: Serve, port: int, certificate: Path | None) -> None:
    server, secure = asked.server, certificate is not None
    host, elsewhere = server.host.strip("[]"), ""
    if host in _ALL_ADDRESSES:  # which is none that could be opened
        host, elsewhere = "localhost", " and at this machine's other addresses,"
    host = f"[{host}]" if ":" in host else host
    click.echo(
        f"{server.model_name} is at {'https' if secure else 'http'}://{host}:{port},{elsewhere} "
        f"for {counted(asked.capacity, 'call')} at once."
    )
    if asked.ssl_self_signed and certificate is not None:
        click.echo(f"Clients that are to trust it need its certificate: {certificate}")
    if not (secure or is_loopback(server.host)):
        _log.warning(
            "browsers refuse the microphone to pages that come from another machine without TLS: "
            "--ssl-self-signed, or --ssl-cert and --ssl-key"
        )
    if server.no_auth and not server.tokens:
        _log.warning("everybody who reaches this address may use it")


def ice_servers(texts: Iterable[str]) -> tuple[IceServer, ...]:
    """The servers that `--ice-server` names. Raises ConfigError."""
    return tuple(IceServer.parse(text) for text in texts)


def webrtc_limits(**fields: Any) -> ConnectionConfig:
    """What goes for calls over WebRTC. Raises ConfigError."""
    return ConnectionConfig(**fields)


def recogniser(name: str | None) -> str | NamedRecogniser | None:
    """What `--transcribe` names: a checkpoint, or a recogniser. Raises ConfigError where there is none."""
    if name is None or not NamedRecogniser.is_meant(name):
        return name
    open_recogniser(name)  # here it can still be said what is wrong
    return NamedRecogniser(name)


def reference_encoder(name: str | None) -> str | None:
    """What `--reference-encoder` names, for the engine. Raises ConfigError where it is no function."""
    what = "the encoder of references"
    if name is not None and names_object(name) and not callable(find_named(name, what)):
        raise ConfigError(f"{name} is no function; accepted: one from a text to rows, [n, row_dim]")
    return name


def look_up(name: str | None) -> OnReference | None:
    """The function that `--look-up` names. Raises ConfigError."""
    return None if name is None else NamedLookUp(name)


def backend(url: str | None, model: str | None, key: str | None) -> BackendConfig | None:
    """The language model that `--backend-url` and `--backend-model` name. Raises ConfigError."""
    if (url is None) != (model is None):
        raise ConfigError("the URL of a back end and its model go together; accepted: both, or neither")
    return None if url is None or model is None else BackendConfig(url=url, model=model, key=key or "none")


def read_tokens(file: Path) -> tuple[str, ...]:
    """The tokens of a file, one a line. Raises ConfigError where there is none."""
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from error
    tokens = tuple(line for line in lines if line and not line.startswith("#"))
    if not tokens:
        raise ConfigError(f"{file} holds no token; accepted: one on each line")
    return tokens
