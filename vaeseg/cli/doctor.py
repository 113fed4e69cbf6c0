"""`vaeseg-batch doctor`: is everything there that a night needs?"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from vaeseg.cli.options import address_option, json_option, store_options
from vaeseg.cli.segmentation import DEFAULT_MODEL
from vaeseg.errors import EXIT_ERROR, EXIT_OK

if TYPE_CHECKING:
    from vaeseg.checks import Check
    from vaeseg.paths import AnyPath

MARKS = {"ok": "ok", "warning": "warning", "failed": "FAILED"}


@click.command()
@address_option
@click.option("--model", default=DEFAULT_MODEL, show_default=True, help="Name of a model, or a checkpoint file.")
@store_options
@json_option
@click.pass_context
def command(
    ctx: click.Context, /, address: str | None, model: str, store: AnyPath, db: str | None, as_json: bool
) -> None:
    """Check everything that a night needs, and say what to do about what is wrong.

    Database, store, key, model, decoders, archives, memory and GPUs of this machine; with --address also of every node
    of a cluster, which must demand its token and share store, model and clock. Nothing is changed; files that are
    written into the store for a check are removed.

    Exit codes: 0 all is well (warnings are allowed), 1 something that a night needs is wrong, 2 an option that makes
    no sense.
    """
    from vaeseg.checks import are_well
    from vaeseg.db.session import supported_url
    from vaeseg.distributed.doctor import examine
    from vaeseg.distributed.needs import Needs
    from vaeseg.io.store import Store

    if db is not None:
        supported_url(db)
    if address is not None:
        print("asking the cluster takes up to two minutes", file=sys.stderr)
    checks = examine(Needs(store=Store(store.absolute()), database_url=db, model=model), address)
    is_well = are_well(checks)
    if as_json:
        print(json.dumps({"ok": is_well, "checks": [check.as_json() for check in checks]}))
    else:
        _print(checks)
    ctx.exit(EXIT_OK if is_well else EXIT_ERROR)


def _print(checks: Sequence[Check]) -> None:
    """A line a check, and under one that is not ok what to do."""
    for check, nodes in _alike(checks):
        where = "" if not nodes else f"{nodes[0]}: " if len(nodes) == 1 else f"{len(nodes)} nodes: "
        print(f"{MARKS[check.status]:<8} {check.name:<15} {where}{check.found}")
        if check.advice:
            print(f"{'':<8} {'':<15} -> {check.advice}")
    failed, warnings = (sum(check.status == status for check in checks) for status in ("failed", "warning"))
    print(f"{len(checks)} checks: {failed} failed, {warnings} warnings", file=sys.stderr)


def _alike(checks: Sequence[Check]) -> list[tuple[Check, list[str]]]:
    """Each check with its node; what is well on many nodes, in the same words, once with all of them."""
    lines: list[tuple[Check, list[str]]] = []
    well: dict[tuple[str, str], list[str]] = {}
    for check in checks:
        nodes = [] if check.node is None else [check.node]
        if check.node is not None and check.status == "ok":
            known = well.setdefault((check.name, check.found), nodes)
            if known is not nodes:
                known.append(check.node)
                continue
        lines.append((check, nodes))
    return lines
