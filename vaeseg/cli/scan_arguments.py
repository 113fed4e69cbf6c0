"""Options of `scan` that another command takes and hands on as they were typed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from vaeseg.cli.options import Directory

Function = TypeVar("Function", bound=Callable[..., Any])

NOT_HANDED_ON = ("store", "db", "dry_run", "as_json")
"""A schedule belongs to a store already, and nobody reads what it prints."""


class AsTyped(click.ParamType[str]):
    """Text that another type accepts, kept as text; a path is made absolute."""

    def __init__(self, checked: click.ParamType[Any]) -> None:
        self.name = checked.name
        self._checked = checked

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str | None:
        """As the other type has it."""
        return self._checked.get_metavar(param, ctx)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Checked and returned as it is."""
        self._checked.convert(value, param, ctx)
        is_path = isinstance(self._checked, click.Path | Directory) and "://" not in str(value)
        return str(Path(value).absolute()) if is_path else str(value)


class HandedOn(click.Option):
    """An option of another command; marks those that `given_options` collects."""


def options_of_scan(scan: click.Command, without: tuple[str, ...]) -> Callable[[Function], Function]:
    """Give a command the options of `scan`, so that it knows each that `scan` will ever have.

    Args:
        scan: the command.
        without: parameter names of options that it is not to have.
    """
    excluded = {*NOT_HANDED_ON, *without}
    wanted = [option for option in scan.params if isinstance(option, click.Option) and option.name not in excluded]

    def decorate(function: Function) -> Function:
        params: list[click.Parameter] = getattr(function, "__click_params__", [])
        params[:0] = [_handed_on(option) for option in reversed(wanted)]
        function.__click_params__ = params  # type: ignore[attr-defined]  # where click's own decorators keep them
        return function

    return decorate


def given_options(ctx: click.Context) -> dict[str, Any]:
    """Those that were typed: name to text, to True for a flag, to a list where one may be given several times."""
    typed = [
        option
        for option in ctx.command.params
        if isinstance(option, HandedOn) and ctx.get_parameter_source(str(option.name)) is ParameterSource.COMMANDLINE
    ]
    return dict(_name_and_value(option, ctx.params[str(option.name)]) for option in typed)


def _handed_on(option: click.Option) -> click.Option:
    copied = copy.copy(option)
    copied.__class__ = HandedOn
    if not option.is_flag:
        copied.type = AsTyped(option.type)
    return copied


def _name_and_value(option: click.Option, value: Any) -> tuple[str, Any]:
    if value is False:
        return max(option.secondary_opts, key=len), True
    return max(option.opts, key=len), list(value) if isinstance(value, tuple) else value
