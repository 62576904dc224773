"""`virtish`: the commands and their options; what they show is in show.py."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import click
from click.shell_completion import CompletionItem, shell_complete
from lxml import etree

from libvirtish import standard
from libvirtish.rpc import types as t
from libvirtish.rpc.client import DisconnectedError, RemoteError
from libvirtish.virtish import console as terminal
from libvirtish.virtish import show, verbs, words
from libvirtish.virtish.demo import demo_xml
from libvirtish.virtish.session import Session, VerbError, say_errors

COMPLETE = "_VIRTISH_COMPLETE"  # set by the shell
FAILED = 1  # virsh's only status besides 0

DEFINE_VALIDATE, START_PAUSED, XML_INACTIVE = 1, 1, 2
LIST_ACTIVE, LIST_INACTIVE, LIST_PERSISTENT, LIST_TRANSIENT = 1, 2, 4, 8
# What `list` can be asked to select, besides by whether they run.
LIST_OPTIONS = {
    "persistent": LIST_PERSISTENT,
    "transient": LIST_TRANSIENT,
    "state-running": 16,
    "state-paused": 32,
    "state-shutoff": 64,
    "state-other": 128,
    "with-managed-save": 256,
    "without-managed-save": 512,
    "autostart": 1024,
    "no-autostart": 2048,
    "with-snapshot": 4096,
    "without-snapshot": 8192,
    "with-checkpoint": 16384,
    "without-checkpoint": 32768,
}
STATS = {"state": 1, "cpu-total": 2, "balloon": 4, "vcpu": 8, "interface": 16, "block": 32}


def _complete(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete a domain's name, from the daemon if there is one."""
    try:
        session = Session(context.find_root().params.get("connect"), True, False)
        names = [dom.name for dom in session.domains()]
        session.close()
    except (VerbError, RemoteError, DisconnectedError):
        return []
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


class _Group(click.Group):
    """Says what virsh says of a command that there is not."""

    command_class = verbs.Command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command of the first argument."""
        if not ctx.resilient_parsing and self.get_command(ctx, args[0]) is None:
            raise click.UsageError(f"unknown command: '{args[0]}'")
        return super().resolve_command(ctx, args)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-c", "--connect", metavar="URI", help="qemu:///system?socket=PATH")
@click.option("-q", "--quiet", is_flag=True, help="No empty line after the output.")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text")
@click.pass_context
def cli(context: click.Context, connect: str | None, quiet: bool, form: str) -> None:
    """Manage the virtual machines of libvirtishd, as virsh does.

    For completion: eval "$(_VIRTISH_COMPLETE=bash_source virtish)"
    """
    context.obj = Session(connect, quiet, form == "json")


_domain = click.argument("domain", shell_complete=_complete)


def _give_domain(command: click.Command) -> click.Command:
    command.params.append(click.Argument(["domain"], shell_complete=_complete))
    return command


for _verb in verbs.VERBS:
    cli.add_command(verbs.command(_verb, _give_domain))


# -- the connection -----------------------------------------------------------------------------


@cli.command()
@click.pass_obj
def uri(session: Session) -> None:
    """Print the connection's URI."""
    assert session.daemon  # noqa: S101 - connects, as virsh does
    session.show(session.uri + "\n", {"uri": session.uri})


@cli.command()
@click.option("--daemon", is_flag=True, help="The daemon's, too.")
@click.pass_obj
def version(session: Session, daemon: bool) -> None:
    """Print versions."""
    session.show(*show.version(session, daemon))


@cli.command()
@click.pass_obj
def hostname(session: Session) -> None:
    """Print the host's name."""
    name = session.daemon.ask(t.OneStr, "connect_get_hostname").value
    session.show(name + "\n", {"hostname": name})


@cli.command()
@click.pass_obj
def nodeinfo(session: Session) -> None:
    """Describe the host."""
    session.show(*show.node_info(session))


@cli.command()
@click.pass_obj
def capabilities(session: Session) -> None:
    """Print what host and guests can do, as XML."""
    xml = session.daemon.ask(t.OneStr, "connect_get_capabilities").value
    session.show(xml + "\n", {"xml": xml})


# -- listing and showing --------------------------------------------------------------------------


def _list_options(command: click.Command) -> click.Command:
    command.params += [click.Option([f"--{name}"], is_flag=True) for name in LIST_OPTIONS]
    return command


@_list_options
@cli.command("list")
@click.option("--all", "everything", is_flag=True, help="Those that are off too.")
@click.option("--inactive", is_flag=True, help="Only those that are off.")
@click.option("--name", is_flag=True, help="Only names.")
@click.option("--uuid", is_flag=True, help="Only UUIDs.")
@click.option("--id", "number", is_flag=True, help="Only ids.")
@click.option("--table", is_flag=True, help="A table, which is the default.")
@click.option("--title", is_flag=True, help="Titles, too.")
@click.option("--managed-save", is_flag=True, help="For virsh's sake: no domain has one.")
@click.pass_obj
def list_(session: Session, /, **options: bool) -> None:
    """List domains: by default those that run."""
    flags = LIST_INACTIVE if options["inactive"] or options["state_shutoff"] else LIST_ACTIVE
    if options["everything"]:
        flags = LIST_INACTIVE | LIST_ACTIVE
    for name, bit in LIST_OPTIONS.items():
        flags |= bit if options[name.replace("-", "_")] else 0
    columns = {"uuid": options["uuid"], "id": options["number"], "name": options["name"]}
    for name, wanted in columns.items():
        if wanted and options["table"]:
            raise VerbError(f"Options --table and --{name} are mutually exclusive")
    session.show(*show.domain_list(session, flags, columns, options["title"]))


@cli.command()
@_domain
@click.pass_obj
def dominfo(session: Session, domain: str) -> None:
    """Describe a domain."""
    session.show(*show.domain_info(session, session.domain(domain)))


@cli.command()
@_domain
@click.option("--reason", is_flag=True, help="Why, too.")
@click.pass_obj
def domstate(session: Session, domain: str, reason: bool) -> None:
    """Print a domain's state."""
    session.show(*show.domain_state(session, session.domain(domain), reason))


@cli.command()
@click.argument("domain", nargs=-1, shell_complete=_complete)
@click.option("--state", is_flag=True)
@click.option("--cpu-total", is_flag=True)
@click.option("--balloon", is_flag=True)
@click.option("--vcpu", is_flag=True)
@click.option("--interface", is_flag=True)
@click.option("--block", is_flag=True)
@click.pass_obj
def domstats(session: Session, /, domain: tuple[str, ...], **groups: bool) -> None:
    """Print statistics."""
    wanted = sum(STATS[name.replace("_", "-")] for name, on in groups.items() if on)
    chosen = [session.domain(each) for each in domain]
    session.show(*show.statistics(session, chosen, wanted))


@cli.command()
@_domain
@click.pass_obj
def domid(session: Session, domain: str) -> None:
    """Print a domain's id."""
    dom = session.domain(domain)
    number = dom.id if dom.id >= 0 else None
    session.show(f"{'-' if number is None else number}\n", {"id": number})


@cli.command()
@_domain
@click.pass_obj
def domname(session: Session, domain: str) -> None:
    """Print a domain's name."""
    name = session.domain(domain).name
    session.show(name + "\n", {"name": name})


@cli.command()
@_domain
@click.pass_obj
def domuuid(session: Session, domain: str) -> None:
    """Print a domain's UUID."""
    raw = session.domain(domain).uuid.hex()
    text = "-".join((raw[:8], raw[8:12], raw[12:16], raw[16:20], raw[20:]))
    session.show(text + "\n", {"uuid": text})


@cli.command()
@_domain
@click.option("--inactive", is_flag=True, help="As it would be started next.")
@click.option("--security-info", is_flag=True, help="For virsh's sake: nothing is secret.")
@click.pass_obj
def dumpxml(session: Session, domain: str, inactive: bool, security_info: bool) -> None:
    """Print a domain's XML."""
    args = t.DomainFlags(session.domain(domain), XML_INACTIVE if inactive else 0)
    xml = session.daemon.ask(t.OneStr, "domain_get_xml_desc", args).value
    session.show(xml, {"xml": xml})


@cli.command()
@_domain
@click.pass_obj
def ttyconsole(session: Session, domain: str) -> None:
    """Print the terminal of a domain's console."""
    args = t.DomainFlags(session.domain(domain), 0)
    xml = session.daemon.ask(t.OneStr, "domain_get_xml_desc", args).value
    element = etree.fromstring(xml).find("devices/console[@tty]")
    if element is None:
        raise VerbError("the domain has no console with a terminal, or is off")
    session.show(f"{element.get('tty')}\n", {"tty": element.get("tty")})


@cli.command()
@_domain
@click.pass_obj
def domcontrol(session: Session, domain: str) -> None:
    """Say whether a domain's monitor is free."""
    args = t.DomainFlags(session.domain(domain), 0)
    info = session.daemon.ask(t.ControlInfo, "domain_get_control_info", args)
    word = words.pick(("ok", "background job", "occupied", "error"), info.state)
    session.show(word + "\n", {"control": word})


# -- defining and running -------------------------------------------------------------------------


def _read(path: str) -> str:
    try:
        if path == "-":
            return sys.stdin.read()
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise VerbError(f"Failed to open file '{path}': {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise VerbError(f"Failed to read file '{path}': {error}") from error


@cli.command()
@click.argument("file", required=False, type=click.Path())
@click.option("--demo", is_flag=True, help="The guest of `make boot`, as the domain demo.")
@click.option("--validate", is_flag=True, help="Only what libvirt's schema allows.")
@click.pass_obj
def define(session: Session, file: str | None, demo: bool, validate: bool) -> None:
    """Define a domain from an XML file."""
    if (file is None) != demo:
        raise click.UsageError("command 'define' requires <file> option, or --demo")
    where = file or "--demo"
    xml = demo_xml() if demo else _read(where)
    try:
        if validate:
            args = t.StrFlags(xml, DEFINE_VALIDATE)
            dom = session.daemon.ask(t.OneDomain, "domain_define_xml_flags", args).dom
        else:
            dom = session.daemon.ask(t.OneDomain, "domain_define_xml", t.OneStr(xml)).dom
    except RemoteError as error:
        raise VerbError(f"Failed to define domain from {where}", str(error)) from error
    session.show(f"Domain '{dom.name}' defined from {where}\n", {"domain": dom.name})


@cli.command()
@click.argument("file", type=click.Path())
@click.option("--paused", is_flag=True, help="Leave it paused.")
@click.pass_obj
def create(session: Session, file: str, paused: bool) -> None:
    """Start a domain from an XML file; it is gone when it stops."""
    args = t.StrFlags(_read(file), START_PAUSED if paused else 0)
    try:
        dom = session.daemon.ask(t.OneDomain, "domain_create_xml", args).dom
    except RemoteError as error:
        raise VerbError(f"Failed to create domain from {file}", str(error)) from error
    session.show(f"Domain '{dom.name}' created from {file}\n", {"domain": dom.name, "id": dom.id})


@cli.command()
@_domain
@click.option("--paused", is_flag=True, help="Leave it paused.")
@click.option("--console", "attach", is_flag=True, help="Attach to its console.")
@click.pass_obj
def start(session: Session, domain: str, paused: bool, attach: bool) -> None:
    """Start a domain."""
    dom = session.domain(domain)
    if dom.id >= 0:
        raise VerbError("Domain is already active")
    args = t.DomainFlags(dom, START_PAUSED if paused else 0)
    try:
        dom = session.daemon.ask(t.OneDomain, "domain_create_with_flags", args).dom
    except RemoteError as error:
        raise VerbError(f"Failed to start domain '{dom.name}'", str(error)) from error
    session.show(f"Domain '{dom.name}' started\n", {"domain": dom.name, "id": dom.id})
    if attach:
        terminal.attach(session, dom, None, False)


@cli.command()
@_domain
@click.option("--disable", is_flag=True, help="No longer.")
@click.pass_obj
def autostart(session: Session, domain: str, disable: bool) -> None:
    """Start a domain whenever the daemon starts."""
    dom = session.domain(domain)
    try:
        session.daemon.call("domain_set_autostart", t.DomainInt(dom, int(not disable)))
    except RemoteError as error:
        verb = "unmark" if disable else "mark"
        raise VerbError(
            f"Failed to {verb} domain '{dom.name}' as autostarted", str(error)
        ) from error
    text = f"Domain '{dom.name}' {'unmarked' if disable else 'marked'} as autostarted\n"
    session.show(text, {"domain": dom.name, "autostart": not disable})


@cli.command()
@_domain
@click.argument("new_name")
@click.pass_obj
def domrename(session: Session, domain: str, new_name: str) -> None:
    """Give a domain that is off another name."""
    session.daemon.call("domain_rename", t.RenameArgs(session.domain(domain), new_name, 0))
    session.show("Domain successfully renamed\n", {"domain": new_name})


@cli.command()
@_domain
@click.option("--devname", metavar="ALIAS", help="serial0 or console0; by default the first.")
@click.option("--force", is_flag=True, help="Take it from another client.")
@click.pass_obj
def console(session: Session, domain: str, devname: str | None, force: bool) -> None:
    """Attach this terminal to a domain's console; Ctrl-] leaves."""
    terminal.attach(session, session.domain(domain), devname, force)


@cli.command("qemu-monitor-command")
@_domain
@click.argument("command", nargs=-1, required=True)
@click.pass_obj
def monitor_command(session: Session, domain: str, command: tuple[str, ...]) -> None:
    """Pass a QMP command, as JSON, to a domain's monitor."""
    args = t.MonitorCommandArgs(session.domain(domain), " ".join(command), 0)
    answer = session.daemon.ask(t.OneStr, "domain_monitor_command", args).value
    session.show(answer + "\n", json.loads(answer))


@cli.command()
@click.argument("domain", required=False, shell_complete=_complete)
@click.argument("name", required=False)
@click.option("--event", "kind", help="lifecycle (the default) or reboot.")
@click.option("--all", "every_kind", is_flag=True, help="Both.")
@click.option("--loop", is_flag=True, help="Go on after the first.")
@click.option("--timeout", type=float, help="Seconds.")
@click.option("--timestamp", is_flag=True, help="Say when.")
@click.option("--list", "names", is_flag=True, help="Names of events.")
@click.pass_obj
def event(
    session: Session, /, domain: str | None, name: str | None, kind: str | None, **options: object
) -> int:
    """Print events as they come: of a domain or of all, the one that is named or --all."""
    if options["names"]:
        session.show("".join(f"{each}\n" for each in words.EVENT_KINDS), words.EVENT_KINDS)
        return 0
    kind = kind or name or "lifecycle"
    if kind not in words.EVENT_KINDS:
        raise VerbError(f"unknown event type {kind}")
    dom = session.domain(domain) if domain else None
    kinds = ["lifecycle", "reboot"] if options["every_kind"] else [kind]
    for each in kinds:
        args = t.RegisterArgs(words.EVENT_KINDS.index(each), dom)
        session.daemon.call("connect_domain_event_callback_register_any", args)
    seconds = options["timeout"]
    deadline = time.monotonic() + seconds if isinstance(seconds, float) else None
    count, ended = 0, ""
    try:
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            came = session.daemon.next_event(left)
            if came is None:
                ended = "event loop timed out\n"
                break
            count += 1
            text, data = show.event(*came)
            if options["timestamp"]:
                now = datetime.now(UTC)
                text = f"{now:%Y-%m-%d %H:%M:%S}.{now.microsecond // 1000:03d}+0000: {text}"
            session.show(text, data)
            if not options["loop"]:
                break
    except KeyboardInterrupt:
        ended = "event loop interrupted\n"
    if not session.as_json:
        session.show(f"{ended}events received: {count}\n", None)
    return 0 if count else FAILED


# -- the end --------------------------------------------------------------------------------------


def _usage(error: click.UsageError) -> str:
    """Say a usage error as virsh would."""
    command = error.ctx.info_name if error.ctx else None
    if isinstance(error, click.MissingParameter) and error.param is not None:
        return f"command '{command}' requires <{verbs.option_name(error.param)}> option"
    if isinstance(error, click.NoSuchOption):
        return f"command '{command}' doesn't support option {error.option_name}"
    if extra := re.match(r"Got unexpected extra arguments? \((\S+).*\)", error.message):
        return f"unexpected data '{extra[1]}'"
    return error.format_message()


def _guarded(work: Callable[[], object]) -> tuple[int, bool]:
    """Return the status, and whether the command itself was reached: then virsh ends its output
    with an empty line.
    """
    try:
        status = work()
    except VerbError as error:
        say_errors(*error.lines)
    except (RemoteError, DisconnectedError) as error:
        say_errors(str(error))
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return FAILED, False
    except click.UsageError as error:
        say_errors(_usage(error))
        return FAILED, False
    except click.exceptions.Exit as error:  # --help
        return error.exit_code, False
    except click.exceptions.Abort:
        return 130, False
    except OSError as error:
        if said := standard.give_up_output(error):
            say_errors(said)
        return FAILED, False
    else:
        return (status if isinstance(status, int) else 0), True
    return FAILED, True


def _ended(session: Session, reached: bool) -> int:
    if reached:
        session.end()
    session.close()
    return 0


def main() -> int:
    """Run the command line; the status is virsh's: 0, or 1 for every failure."""
    standard.prepare()
    contexts: list[click.Context] = []

    def make() -> int:
        contexts.append(cli.make_context("virtish", sys.argv[1:]))
        return 0

    if instruction := os.environ.get(COMPLETE):
        return shell_complete(cli, {}, "virtish", COMPLETE, instruction)
    status, _ = _guarded(make)
    for context in contexts:
        with context:
            status, reached = _guarded(partial(cli.invoke, context))
            session: Session | None = context.obj
        if session is not None:
            status = _guarded(partial(_ended, session, reached))[0] or status
    return status
