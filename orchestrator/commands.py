"""The commands that run beside a server, on the same database: keys, projects, nodes, links."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, get_args

import click
import msgspec

from orchestrator.domain.model import KeyId, Placement, ProjectId, Rules, Verify
from orchestrator.domain.trust import Policy, level
from orchestrator.errors import OperatorError
from orchestrator.settings import Settings
from orchestrator.storage import console_sessions, keys, projects, standings
from orchestrator.storage.audit_log import COMMAND_LINE
from orchestrator.storage.catalogue import load_manifests
from orchestrator.storage.database import Database, open_for_command, usable

_data_dir: Final[Callable[[Any], Any]] = click.option(
    "--data-dir", type=click.Path(path_type=Path), help="Folder of database and keys [./var]."
)
_json: Final[Callable[[Any], Any]] = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON and nothing else."
)


# How the audit log calls whoever runs these commands.
_WHO: Final = COMMAND_LINE
_PREFIX_DIGITS_MIN: Final = 8
_DONE: Final[Mapping[standings.Order, str]] = {
    "quarantine": "quarantined",
    "ban": "banned",
    "release": "released",
}


@click.group(name="keys")
def keys_group() -> None:
    """Make, list and revoke API keys."""


@keys_group.command(name="create")
@_data_dir
@_json
@click.option("--name", default="command line", show_default=True, help="What the key is for.")
def create(data_dir: Path | None, as_json: bool, name: str) -> None:
    """Make an API key; a running server takes it at once. It cannot be shown again."""
    with _opened(data_dir) as (database, _):
        pepper = keys.load_pepper(database)
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


@click.group(name="projects")
def projects_group() -> None:
    """List projects and set the rules for where their jobs may go."""


@projects_group.command(name="list")
@_data_dir
@_json
def list_projects(data_dir: Path | None, as_json: bool) -> None:
    """List all projects with their rules."""
    with _opened(data_dir) as (database, _):
        listed = projects.list_projects(database)
    if as_json:
        click.echo(json.dumps([_project_row(project) for project in listed]))
        return
    if not listed:
        click.echo("There are no projects yet: `zerogpu keys create` makes the first.")
    for project in listed:
        click.echo(
            f"{project.project_id}  made {_day(project.created_at)}"
            f"  {_rules_text(project.rules)}  {project.name}"
        )


@projects_group.command(name="set")
@click.argument("project_id")
@click.option(
    "--verify",
    type=click.Choice(get_args(Verify)),
    help="Compare answers as trust demands, or every one.",
)
@click.option(
    "--placement",
    type=click.Choice(get_args(Placement)),
    help="Any node, only those that audits have shown to be honest, or only the CPU worker.",
)
@click.option("--region", help='Only nodes there: "EU", "EU-DE"; "" is anywhere.')
@click.option("--weight", type=float, help="Share of a busy fleet against other projects.")
@click.option(
    "--replays/--no-replays",
    default=None,
    help="Whether its texts may be put to further nodes, to learn whether those are honest.",
)
@_data_dir
def set_rules(project_id: str, data_dir: Path | None, **options: Any) -> None:
    """Change rules of the project PROJECT_ID; a running server acts by them within seconds."""
    changes = projects.RuleChanges(
        **{name: value for name, value in options.items() if value is not None}  # type: ignore[typeddict-item]
    )
    if not changes:
        raise OperatorError("nothing to change: `zerogpu projects set --help` shows the rules")
    with _opened(data_dir) as (database, _):
        rules = projects.change_rules(
            database, ProjectId(project_id), changes, who=_WHO, now=time.time()
        )
    if rules is None:
        raise OperatorError(f"there is no project {project_id}: `zerogpu projects list` shows them")
    click.echo(f"{project_id}  {_rules_text(rules)}")


@click.group(name="nodes")
def nodes_group() -> None:
    """List what audits have shown of nodes; quarantine, ban or release one."""


@nodes_group.command(name="list")
@click.option(
    "--only", type=click.Choice(get_args(standings.Only)), help="Those that are, or have."
)
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True)
@_data_dir
@_json
def list_nodes(
    only: standings.Only | None, limit: int, data_dir: Path | None, as_json: bool
) -> None:
    """List nodes that were audited, those that changed last first."""
    with _opened(data_dir) as (database, settings):
        listed = standings.list_standings(database, only=only, limit=limit)
        policy = Policy(trust_after=settings.trust_after, audit_share=settings.audit_share)
    if as_json:
        click.echo(json.dumps([_standing_row(record) for record in listed]))
        return
    if not listed:
        click.echo("There are no such nodes: a node is listed once it was audited.")
    for record in listed:
        standing = record.standing
        click.echo(
            f"{standing.identity[:16]}  {standing.runtime}  {level(standing, policy)}"
            f"  agreed {standing.agreed}"
            f"  disagreed {standing.disagreed}  in a row {standing.consecutive}"
            f"  changed {_day(record.updated_at)}  {standing.reason}"
        )


@nodes_group.command(name="quarantine")
@click.argument("identity_prefix")
@_data_dir
def quarantine(identity_prefix: str, data_dir: Path | None) -> None:
    """Give no more work to the node whose identity begins with IDENTITY_PREFIX."""
    _order(identity_prefix, "quarantine", data_dir)


@nodes_group.command(name="ban")
@click.argument("identity_prefix")
@_data_dir
def ban(identity_prefix: str, data_dir: Path | None) -> None:
    """Refuse the node whose identity begins with IDENTITY_PREFIX at the door."""
    _order(identity_prefix, "ban", data_dir)


@nodes_group.command(name="release")
@click.argument("identity_prefix")
@_data_dir
def release(identity_prefix: str, data_dir: Path | None) -> None:
    """Undo quarantine and ban; the node begins again as a newcomer."""
    _order(identity_prefix, "release", data_dir)


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


COMMANDS: Final[tuple[click.Command, ...]] = (
    keys_group,
    projects_group,
    nodes_group,
    models,
    console_link,
)


@contextlib.contextmanager
def _opened(data_dir: Path | None, **overrides: object) -> Iterator[tuple[Database, Settings]]:
    settings = Settings.from_env(os.environ, data_dir=data_dir, **overrides)
    database = open_for_command(settings.data_dir)
    try:
        with usable(settings.data_dir):
            yield database, settings
    finally:
        database.close()


def _order(prefix: str, order: standings.Order, data_dir: Path | None) -> None:
    """Carry out an order on the one node that is meant, or say why not."""
    prefix = prefix.lower()
    if len(prefix) < _PREFIX_DIGITS_MIN or set(prefix) - set("0123456789abcdef"):
        raise OperatorError(
            f"{prefix!r} does not name a node: give at least the first {_PREFIX_DIGITS_MIN} hex"
            " digits of its identity, which `zerogpu nodes list` shows"
        )
    with _opened(data_dir) as (database, _):
        found = standings.find_identities(database, prefix)
        if not found:
            raise OperatorError(f"no node's identity begins with {prefix}: none ever came here")
        if len(found) > 1:
            raise OperatorError(
                f"more than one node's identity begins with {prefix}: give more of it"
            )
        standings.carry_out(database, found[0], order, who=_WHO, now=time.time())
    click.echo(f"{found[0]} is {_DONE[order]}.")
    click.echo("A server that runs now takes it up within two seconds.")


def _rules_text(rules: Rules) -> str:
    return (
        f"verify {rules.verify}  placement {rules.placement}  region {rules.region or 'anywhere'}"
        f"  weight {rules.weight:g}  replays {'yes' if rules.replays else 'no'}"
    )


def _project_row(project: projects.Project) -> dict[str, object]:
    return {
        "id": project.project_id,
        "name": project.name,
        "created_at": project.created_at,
        **msgspec.structs.asdict(project.rules),
    }


def _standing_row(record: standings.StandingRecord) -> dict[str, object]:
    return {**msgspec.structs.asdict(record.standing), "updated_at": record.updated_at}


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
