"""The serve command: an HTTP service over an exported model or a bundle."""

from __future__ import annotations

import ipaddress
import signal
import socket
from pathlib import Path

import click

from neuron_specialization.cli.options import PATH, translator_options
from neuron_specialization.errors import TranslationError


@click.command()
@click.option(
    "--model", type=PATH, required=True, help="Exported model, a system's folder of them, or a bundle."
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0: a free one.")
@translator_options
@click.option(
    "--concurrency", type=click.IntRange(1), help="Requests translated at once [default: --threads]."
)
@click.option(
    "--queue", type=click.IntRange(0), default=32, show_default=True, help="Requests that wait; further: 503."
)
@click.option(
    "--per-client",
    type=click.IntRange(1),
    default=16,
    show_default=True,
    help="Requests of one address at the same time; further: 429.",
)
@click.option(
    "--max-body", type=click.IntRange(1), default=256 * 1024, show_default=True, help="Bytes; larger: 413."
)
@click.option(
    "--max-lines",
    type=click.IntRange(1),
    default=500,
    show_default=True,
    help="Lines of a request; more: 413.",
)
@click.option(
    "--max-work",
    type=click.IntRange(1),
    default=100_000,
    show_default=True,
    help="Pieces of a request times its beam; more: 413.",
)
@click.option("--keep", type=click.IntRange(1), default=8, show_default=True, help="Models held in memory.")
@click.option(
    "--stop-seconds", type=click.IntRange(1), default=30, show_default=True, help="To finish when stopped."
)
def serve(
    model: Path,
    host: str,
    port: int,
    threads: int,
    concurrency: int | None,
    queue: int,
    per_client: int,
    max_body: int,
    max_lines: int,
    max_work: int,
    keep: int,
    compute_type: str,
    device: str,
    cache: Path | None,
    stop_seconds: int,
) -> None:
    """Serve translations over HTTP: POST /translate, GET /directions, GET /health, and a web page.

    Without authentication or encryption: it listens on this machine only, unless told otherwise. Stopped by
    SIGTERM or Ctrl-C it finishes what it is doing and takes on nothing more.
    """
    from neuron_specialization.translation.translator import Translator

    translator = Translator.load(
        model, threads=threads, compute_type=compute_type, device=device, keep=keep, cache=cache
    )
    try:
        import uvicorn

        from neuron_specialization.serve.app import create_app
        from neuron_specialization.serve.directions import describe_directions, model_name
        from neuron_specialization.serve.limits import Limits
    except ModuleNotFoundError as error:
        raise TranslationError(
            f"the service needs {error.name}",
            hint="in a checkout: make env; else: pip install 'WHEEL[serve]', the file of make package",
        ) from None
    limits = Limits(
        body=max_body,
        lines=max_lines,
        work=max_work,
        concurrency=concurrency or threads,
        queue=queue,
        per_client=per_client,
        stop_seconds=stop_seconds,
    )
    directions = describe_directions(model)
    # what cannot translate is told before anyone is told that it serves
    translator.open(translator.directions[0])
    app = create_app(
        translator, directions, name=model_name(model), limits=limits, stopping=lambda: server.should_exit
    )
    listener = _listen(host, port)
    # the application answers requests that take too long; uvicorn cuts off clients that do
    # use_colors: else it asks standard output, which may be closed
    config = uvicorn.Config(
        app, log_level="warning", use_colors=False, timeout_graceful_shutdown=stop_seconds + 2
    )
    server = uvicorn.Server(config)

    def stop(*_: object) -> None:
        server.should_exit = True

    # uvicorn handles these itself, but not before it runs, and raises them again afterwards: a stop that was
    # asked for is no failure
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    address = f"[{host}]" if ":" in host else host
    click.echo(f"serving {model} on http://{address}:{listener.getsockname()[1]}")
    if not _is_local(host):
        click.echo("anyone who reaches this address can use it: there is no authentication", err=True)
    server.run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=256)
    except OSError as error:
        raise TranslationError(
            f"cannot listen: {error.strerror or error}",
            where=f"{host}, port {port}",
            hint="choose another --port (0: a free one) or --host",
        ) from None


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
