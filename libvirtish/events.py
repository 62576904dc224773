"""Who wants to hear of which domains, in the three ways that libvirt's clients have of asking."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from libvirtish.errors import Code, VirError
from libvirtish.rpc import types as t
from libvirtish.states import EVENT_LAST, EVENT_LIFECYCLE, EVENT_REBOOT

if TYPE_CHECKING:
    from libvirtish.rpc.server import Client

OLD_WAY = -1  # no callback id: connect_domain_event_register, or ..._register_any


@dataclass(frozen=True)
class Subscription:
    """One client's wish."""

    client: Client
    event: int
    uuid: bytes | None  # of one domain, or of all
    callback: int


class Events:
    """All subscriptions."""

    def __init__(self) -> None:
        """Begin with none."""
        self._subscriptions: list[Subscription] = []
        self._callbacks = itertools.count(1)

    def subscribe(
        self, client: Client, event: int, uuid: bytes | None = None, old_way: bool = False
    ) -> int:
        """Subscribe, and return the callback id. :raise VirError: if there is no such event."""
        if not 0 <= event <= EVENT_LAST:
            message = f"event {event} is none of 0 to {EVENT_LAST}"
            raise VirError(Code.INVALID_ARG, message)
        callback = OLD_WAY if old_way else next(self._callbacks)
        if old_way and any(
            each.client is client and each.event == event and each.callback == OLD_WAY
            for each in self._subscriptions
        ):
            raise VirError(Code.INVALID_ARG, f"event {event} is registered already")
        if all(each.client is not client for each in self._subscriptions):
            client.on_close.append(lambda: self.forget(client))
        self._subscriptions.append(Subscription(client, event, uuid, callback))
        return callback

    def unsubscribe(self, client: Client, callback: int, event: int | None = None) -> None:
        """End a subscription: by callback id, or an old one by its event. :raise VirError:"""
        for each in self._subscriptions:
            if each.client is client and each.callback == callback and event in (None, each.event):
                self._subscriptions.remove(each)
                return
        raise VirError(Code.INVALID_ARG, f"no such registration: {callback}")

    def forget(self, client: Client) -> None:
        """End all of a client's subscriptions."""
        self._subscriptions = [each for each in self._subscriptions if each.client is not client]

    def lifecycle(self, dom: t.Domain, event: int, detail: int) -> None:
        """Tell of a step in a domain's life."""
        self._tell(EVENT_LIFECYCLE, "lifecycle", t.LifecycleEvent(dom, int(event), int(detail)))

    def reboot(self, dom: t.Domain) -> None:
        """Tell of a reboot."""
        self._tell(EVENT_REBOOT, "reboot", t.RebootEvent(dom))

    def _tell(self, event: int, name: str, message: t.LifecycleEvent | t.RebootEvent) -> None:
        for each in list(self._subscriptions):
            if each.event != event or each.uuid not in (None, message.dom.uuid):
                continue
            if each.callback == OLD_WAY:
                each.client.event(f"domain_event_{name}", message)
            elif isinstance(message, t.LifecycleEvent):
                wrapped = t.CallbackLifecycleEvent(each.callback, message)
                each.client.event(f"domain_event_callback_{name}", wrapped)
            else:
                reboot = t.CallbackRebootEvent(each.callback, message)
                each.client.event(f"domain_event_callback_{name}", reboot)
