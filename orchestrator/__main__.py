"""The `zerogpu` command."""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import structlog
import uvloop

from bench.fleet.cli import simulate
from orchestrator import app, commands, logs
from orchestrator.errors import OperatorError
from orchestrator.settings import Settings, unknown_variables

_data_dir = click.option(
    "--data-dir", type=click.Path(path_type=Path), help="Folder of database and keys [./var]."
)
_build_dir = click.option(
    "--build-dir", type=click.Path(path_type=Path), help="Output of `python -m wasm_build`."
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="zerogpu")
def cli() -> None:
    """ZeroGPU: small models on donated browser tabs, a server CPU as the fallback."""


@cli.command()
@click.option("--host", help="Address to listen on [127.0.0.1].")
@click.option("--port", type=int, help="Port to listen on [8000]; 0 takes a free one.")
@_data_dir
@_build_dir
@click.option("--cpu-worker/--no-cpu-worker", default=None, help="Start a CPU worker [yes].")
@click.option("--tls-cert", type=click.Path(path_type=Path), help="Certificate chain (PEM).")
@click.option("--tls-key", type=click.Path(path_type=Path), help="Private key (PEM).")
@click.option("--public-url", help="URL people reach this server by.")
@click.option("--forwarded-allow-ips", help="Proxies whose X-Forwarded-* headers count [none].")
@click.option("--log-format", type=click.Choice(["auto", "console", "json"]), help="[auto]")
def serve(**options: Any) -> None:
    """Run the orchestrator and its CPU worker."""
    if options["forwarded_allow_ips"] is not None:
        options["forwarded_allow_ips"] = tuple(options["forwarded_allow_ips"].split(","))
    settings = Settings.from_env(os.environ, **options)
    logs.set_up_logs(settings)
    _warn_of_unknown(os.environ)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(app.serve(settings, announce=_announce))


@cli.command()
@_data_dir
@_build_dir
@click.option("--threads", type=int, help="Threads of one computation [all cores].")
@click.option("--parent", type=int, hidden=True, help="End with this process, the one that asks.")
def worker(
    data_dir: Path | None, build_dir: Path | None, threads: int | None, parent: int | None
) -> None:
    """Run a trusted CPU worker for the orchestrator that serves DATA_DIR on this machine."""
    from browser_node.runtimes import native  # noqa: PLC0415 — onnxruntime is slow to import

    settings = Settings.from_env(
        os.environ, data_dir=data_dir, build_dir=build_dir, cpu_worker_threads=threads
    )
    sys.exit(
        native.run_worker(
            data_dir=settings.data_dir,
            build_dir=settings.build_dir,
            threads=settings.cpu_worker_threads,
            parent=parent,
            yields=True,
        )
    )


@cli.command()
@click.option("--url", required=True, help="The orchestrator, such as https://example.org.")
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    default=Path("var/node"),
    show_default=True,
    help="Folder of this node's key and models.",
)
@click.option(
    "--cpu-share",
    type=click.FloatRange(0.05, 1.0),
    default=1.0,
    show_default=True,
    help="Share of the time this node may compute.",
)
@click.option(
    "--threads",
    type=click.IntRange(1, 1024),
    default=1,
    show_default=True,
    help="Threads of one computation.",
)
def node(url: str, data_dir: Path, cpu_share: float, threads: int) -> None:
    """Donate this machine to an orchestrator as a native volunteer."""
    from browser_node.runtimes import native  # noqa: PLC0415 — onnxruntime is slow to import

    sys.exit(native.run_node(url=url, data_dir=data_dir, cpu_share=cpu_share, threads=threads))


for command in (*commands.COMMANDS, simulate):
    cli.add_command(command)


def _announce(started: app.Started) -> None:
    """Say where to go; a first start also shows, once, what cannot be shown again."""
    out = click.echo
    out(f"ZeroGPU is running at {started.url}")
    out(f"  donate this browser    {started.url}/volunteer")
    first, settings = started.first, started.settings
    if first is None:
        data_dir = str(settings.data_dir)
        # What the options of this process made of it, the command cannot know.
        known = Settings.from_env(os.environ)
        place = [] if settings.data_dir == known.data_dir else ["--data-dir", data_dir]
        url = [] if started.url == known.url else ["--public-url", started.url]
        out(f"  sign in to the console  {_command('console-link', *place, *url)}")
        out(f"  make another API key    {_command('keys', 'create', *place)}")
        return
    out(f"  console (one-time link) {started.url}/console/sign-in?token={first.console_token}")
    out(f"  API key (shown once)    {first.api_key}")
    out(f"  project id              {first.project_id}")
    out("")
    out("Try it:")
    project = f"-H 'x-project-id: {first.project_id}' " if settings.require_project_id else ""
    out(
        f"  curl {started.url}/v1/responses -H 'x-api-key: {first.api_key}' {project}"
        "-H 'content-type: application/json' -d '"
        '{"model": "zlm-v1-iab-classify-edge", "input": "The goalkeeper saved two penalties '
        'and the city celebrated its first cup in thirty years."}'
        "'"
    )


def _command(*words: str) -> str:
    """Return a command line as it works in the shell and folder that this process began in."""
    begun = Path(sys.argv[0])
    program = [str(begun)] if begun.name == "zerogpu" else [sys.executable, "-m", "orchestrator"]
    return shlex.join([*program, *words])


def _warn_of_unknown(environ: Mapping[str, str]) -> None:
    """Log what looks like a setting and is none: a typing error would be ignored silently."""
    if unknown := unknown_variables(environ):
        structlog.get_logger("server").warning(
            "ignored: there are no such settings",
            variables=", ".join(
                f"{variable} (did you mean {alike}?)" if alike else variable
                for variable, alike in unknown.items()
            ),
        )


def main() -> None:
    """Run the command; a mistake of the operator ends with a sentence, not a traceback."""
    try:
        cli()
    except OperatorError as error:
        click.echo(f"zerogpu: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
