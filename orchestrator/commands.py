"""The commands that run beside a server, on the same database: keys, models, sign-in links."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import click

from orchestrator.domain.model import KeyId
from orchestrator.errors import OperatorError
from orchestrator.settings import Settings
from orchestrator.storage import console_sessions, keys
from orchestrator.storage.catalogue import load_manifests
from orchestrator.storage.database import Database, open_for_command

_data_dir: Final[Callable[[Any], Any]] = click.option(
    "--data-dir", type=click.Path(path_type=Path), help="Folder of database and keys [./var]."
)
_json: Final[Callable[[Any], Any]] = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON and nothing else."
)


@click.group(name="keys")
def keys_group() -> None:
    """Make, list and revoke API keys."""


@keys_group.command(name="create")
@_data_dir
@_json
@click.option("--name", default="command line", show_default=True, help="What the key is for.")
def create(data_dir: Path | None, as_json: bool, name: str) -> None:
    """Make an API key; a running server takes it at once. It cannot be shown again."""
    with _opened(data_dir) as (database, settings):
        pepper = keys.load_pepper(settings.data_dir)
        key = keys.create_key(database, pepper, name=name[:200], now=time.time())
    if as_json:
        click.echo(json.dumps({"api_key": key.api_key, "project_id": key.project_id}))
        return
    click.echo(f"API key (shown once)  {key.api_key}")
    click.echo(f"key id                {key.key_id}")
    click.echo(f"project id            {key.project_id}")


@keys_group.command(name="list")
@_data_dir
@_json
def list_(data_dir: Path | None, as_json: bool) -> None:
    """List all API keys; the keys themselves are not stored."""
    with _opened(data_dir) as (database, _):
        listed = keys.list_keys(database)
    if as_json:
        click.echo(json.dumps([_key_row(key) for key in listed]))
        return
    if not listed:
        click.echo("There are no API keys yet: make one with `zerogpu keys create`.")
    for key in listed:
        state = f"revoked {_day(key.revoked_at)}" if key.revoked_at is not None else "active"
        masked = f"{keys.KEY_PREFIX}…{key.hint}"
        click.echo(f"{key.key_id}  {masked}  made {_day(key.created_at)}  {state}  {key.name}")


@keys_group.command(name="revoke")
@click.argument("key_id")
@_data_dir
def revoke(key_id: str, data_dir: Path | None) -> None:
    """End the key KEY_ID for good; a running server refuses it within seconds."""
    with _opened(data_dir) as (database, _):
        known = keys.revoke_key(database, KeyId(key_id), now=time.time())
    if not known:
        raise OperatorError(f"there is no key {key_id}: `zerogpu keys list` shows the ids")
    click.echo(f"{key_id} is revoked.")


@click.command(name="models")
@click.option("--build-dir", type=click.Path(path_type=Path), help="Output of the build.")
@_json
def models(build_dir: Path | None, as_json: bool) -> None:
    """List the models that a server started here offers."""
    settings = Settings.from_env(os.environ, build_dir=build_dir)
    manifests = load_manifests(settings.build_dir).values()
    if as_json:
        rows = [
            {
                "id": manifest.id,
                "aliases": list(manifest.aliases),
                "version": manifest.version,
                "task": manifest.pipeline,
                "max_tokens": manifest.max_tokens,
                "size_bytes": manifest.size_bytes,
            }
            for manifest in manifests
        ]
        click.echo(json.dumps(rows))
        return
    for manifest in manifests:
        also = f"  also {', '.join(manifest.aliases)}" if manifest.aliases else ""
        click.echo(
            f"{manifest.id}  {manifest.pipeline}  up to {manifest.max_tokens:,} tokens"
            f"  {manifest.size_bytes / 1e6:.1f} MB{also}"
        )


@click.command(name="console-link")
@_data_dir
@click.option("--public-url", help="URL people reach the server by.")
@click.option("--port", type=int, help="Port of the server [8000].")
def console_link(data_dir: Path | None, public_url: str | None, port: int | None) -> None:
    """Print a link that signs one browser in to the console, once."""
    with _opened(data_dir, public_url=public_url, port=port) as (database, settings):
        token = console_sessions.create_link(
            database, now=time.time(), lifetime_s=settings.console_link_lifetime_s
        )
    click.echo(f"{settings.url}/console/sign-in?token={token}")


COMMANDS: Final[tuple[click.Command, ...]] = (keys_group, models, console_link)


@contextlib.contextmanager
def _opened(data_dir: Path | None, **overrides: object) -> Iterator[tuple[Database, Settings]]:
    settings = Settings.from_env(os.environ, data_dir=data_dir, **overrides)
    database = open_for_command(settings.data_dir)
    try:
        yield database, settings
    finally:
        database.close()


def _key_row(key: keys.ListedKey) -> dict[str, object]:
    return {
        "id": key.key_id,
        "project_id": key.project_id,
        "name": key.name,
        "hint": key.hint,
        "created_at": key.created_at,
        "revoked_at": key.revoked_at,
    }


def _day(at: float) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(at))
