"""The verbs that do something to one domain and say so: a table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import click

from libvirtish.rpc import types as t
from libvirtish.rpc.client import RemoteError
from libvirtish.virtish.session import Session, VerbError


@dataclass(frozen=True)
class Verb:
    """A verb; {} stands for the domain's name."""

    name: str
    help: str
    procedure: str
    args: Callable[[t.Domain], object]
    done: str
    failed: str


VERBS = (
    Verb(
        *("destroy", "Pull the plug of a domain.", "domain_destroy", t.OneDomain),
        *("Domain '{}' destroyed", "Failed to destroy domain '{}'"),
    ),
    Verb(
        *("suspend", "Pause a domain.", "domain_suspend", t.OneDomain),
        *("Domain '{}' suspended", "Failed to suspend domain '{}'"),
    ),
    Verb(
        *("resume", "Let a paused domain go on.", "domain_resume", t.OneDomain),
        *("Domain '{}' resumed", "Failed to resume domain '{}'"),
    ),
    Verb(
        *("shutdown", "Press a domain's power button.", "domain_shutdown", t.OneDomain),
        *("Domain '{}' is being shutdown", "Failed to shutdown domain '{}'"),
    ),
    Verb(
        *("reboot", "Shut a domain down and start it again.", "domain_reboot"),
        lambda dom: t.DomainFlags(dom, 0),
        *("Domain '{}' is being rebooted", "Failed to reboot domain '{}'"),
    ),
    Verb(
        *("reset", "Press a domain's reset button.", "domain_reset"),
        lambda dom: t.DomainFlags(dom, 0),
        *("Domain '{}' was reset", "Failed to reset domain '{}'"),
    ),
    Verb(
        *("undefine", "Take a domain's definition away.", "domain_undefine_flags"),
        lambda dom: t.DomainFlags(dom, 0),
        *("Domain '{}' has been undefined", "Failed to undefine domain '{}'"),
    ),
)


def option_name(parameter: click.Parameter) -> str:
    """Return what virsh calls an argument: they are options to it."""
    return (parameter.name or "").replace("_", "-")


class Command(click.Command):
    """Takes an argument by its name, too, as virsh does: `start --domain demo`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take what is given by name, and leave the rest to click."""
        arguments = {
            f"--{option_name(parameter)}": parameter
            for parameter in self.params
            if isinstance(parameter, click.Argument)
        }
        named: dict[click.Parameter, str] = {}
        rest, words = [], iter(args)
        for word in words:
            name, has_value, value = word.partition("=")
            if word == "--":
                rest += [word, *words]
            elif name in arguments:
                try:
                    named[arguments[name]] = value if has_value else next(words)
                except StopIteration:
                    raise click.UsageError(f"expected syntax: {name} <string>", ctx) from None
            else:
                rest.append(word)
        every = self.params
        self.params = [parameter for parameter in every if parameter not in named]
        try:
            left = super().parse_args(ctx, rest)
        finally:
            self.params = every
        for parameter, value in named.items():
            assert parameter.name is not None  # noqa: S101 - an argument has a name
            ctx.params[parameter.name] = (value,) if parameter.nargs == -1 else value
        return left


def do(session: Session, verb: Verb, named: str) -> None:
    """Do it and say so. :raise VerbError:"""
    dom = session.domain(named)
    try:
        session.daemon.call(verb.procedure, verb.args(dom))
    except RemoteError as error:
        raise VerbError(verb.failed.format(dom.name), str(error)) from error
    text = verb.done.format(dom.name)
    session.show(text + "\n", {"domain": dom.name, "done": verb.name})


def command(verb: Verb, argument: Callable[[click.Command], click.Command]) -> click.Command:
    """Make the click command of a verb; `argument` gives it the domain."""

    @click.pass_obj
    def run(session: Session, domain: str) -> None:
        do(session, verb, domain)

    return argument(Command(verb.name, callback=run, help=verb.help))
