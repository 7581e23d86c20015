"""The hands hosts of a cluster, as this process reaches them.

Rules of this file:
- A host is lost when the list of nodes says so *and* it does not answer us: a connection that stands is
  worth more than a missed heartbeat.
- Whoever is behind an address is asked who it is before it gets a request.
- What we did not hear while we may have been cut off ourselves says nothing of anybody.
- No request waits for a host that is lost, and none is sent to one that a lasting trouble keeps us from.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from corral.cluster.node import HostFacts, SeenNode
from corral.hands.client import HandsClient
from corral.hands.unreachable import Unreachable
from corral.kernel.errors import HandsUnavailable
from corral.kernel.ids import SessionId
from corral.kernel.limits import (
    HANDS_CONNECT_SECONDS,
    HOST_CLIENTS_MAX,
    HOST_LOOK_SECONDS,
    NODE_LIST_SECONDS,
    NODE_LOST_SECONDS,
)

__all__ = ["Hosts", "Link"]

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(kw_only=True, slots=True)
class Link:
    """Our end of a host. It did not answer from `away_since` to `failed_at` (monotonic), nor since."""

    client: HandsClient
    address: str
    users: int = 0
    is_told: bool = False  # that another host is behind the address
    away_since: float | None = None
    failed_at: float = 0.0

    def failed(self, *, are_we_cut_off: bool) -> None:
        now = time.monotonic()
        was_not_asked = now - self.failed_at > NODE_LOST_SECONDS
        if self.away_since is None or was_not_asked or are_we_cut_off:
            self.away_since = now
        self.failed_at = now

    @property
    def is_away(self) -> bool:
        return self.away_since is not None and time.monotonic() - self.failed_at < NODE_LOST_SECONDS


class Hosts:
    """What a process knows of them, and its connections."""

    def __init__(
        self, nodes: Callable[[], Sequence[SeenNode]], connect: Callable[[SeenNode], HandsClient]
    ) -> None:
        """As `HandsRouter`."""
        self._nodes = nodes
        self._connect = connect
        self._links: OrderedDict[str, Link] = OrderedDict()
        self._left: list[Link] = []  # replaced, while somebody waits for an answer
        self._unlisted_since: dict[str, float] = {}
        self._unreachable = Unreachable()

    # -- what the list of nodes says ----------------------------------------------------------------

    def live(self) -> list[SeenNode]:
        return [seen for seen in self._nodes() if seen.node.host is not None and not seen.is_lost]

    def facts(self) -> Sequence[HostFacts]:
        """Of all live ones."""
        return [_facts(seen) for seen in self.live()]

    def listed(self) -> list[SeenNode]:
        """Where a new session can be tried: live nodes with hands; all, if we know nothing of anybody, as
        after a long outage of the database. Whether they live, their answers say."""
        nodes = self._nodes()
        if any(not seen.is_lost for seen in nodes):
            return self.live()
        return [seen for seen in nodes if seen.node.host is not None]

    def is_gone(self, host_id: str) -> bool:
        """Whether sessions of a host that does not answer us go elsewhere."""
        if self._has_left(host_id) or self._unreachable.is_given_up(host_id):
            return True
        link = self._links.get(host_id)
        is_away = link is not None and link.away_since is not None
        if is_away and link and time.monotonic() - (link.away_since or 0) > NODE_LOST_SECONDS:
            return not self._are_we_cut_off()
        return self.is_lost(host_id)

    def _are_we_cut_off(self) -> bool:
        """Whether it may be so: the list is old."""
        return all(seen.age_seconds > NODE_LIST_SECONDS for seen in self._nodes())

    def _has_left(self, host_id: str) -> bool:
        """Whether its node has stopped in good order, or does so: it has copied the workspaces, and there
        is no silence to wait out. For where sessions go: a call of it is asked for until it is lost."""
        live = [seen for seen in self._nodes() if not seen.is_lost]
        if not live or any("hands" in seen.node.roles and seen.node.host is None for seen in live):
            return False  # we are cut off; or a node that has just begun has not named its host yet
        for seen in self._nodes():
            if seen.node.host is not None and seen.node.host.host_id == host_id:
                return seen.node.is_draining or seen.node.host.is_draining
        return True

    def is_lost(self, host_id: str) -> bool:
        """Whether a host that does not answer us will not be waited for: all nodes know it as lost."""
        nodes, now = self._nodes(), time.monotonic()
        if self._are_we_cut_off():
            return False
        for seen in nodes:
            if seen.node.host is not None and seen.node.host.host_id == host_id:
                self._unlisted_since.pop(host_id, None)
                return seen.is_lost
        return now - self._unlisted_since.setdefault(host_id, now) > NODE_LOST_SECONDS

    # -- what we found out --------------------------------------------------------------------------

    def is_blocked(self, host_id: str) -> bool:
        """Whether a lasting trouble keeps us from it, so it is not tried now."""
        return self._unreachable.blocks(host_id) is not None

    def unreachable(self) -> Mapping[str, str]:
        """Why no call from here reaches a host that is listed as live, by its id. With addresses: for the
        log, and for whoever may see the status."""
        return {host_id: str(error) for host_id, error in self._troubles().items()}

    def why_not(self) -> str:
        """For a message to anybody: what keeps us from live hosts, without their addresses."""
        return "".join(f": {why}" for why in sorted({error.message for error in self._troubles().values()}))

    def _troubles(self) -> Mapping[str, HandsUnavailable]:
        live = {host.host_id for host in self.facts()}
        return {host_id: error for host_id, error in self._unreachable.why().items() if host_id in live}

    # -- one request to one host --------------------------------------------------------------------

    def link(self, host_id: str) -> Link:
        """Raises HandsUnavailable if there is no way to it from here."""
        seen = next(
            (s for s in self._nodes() if s.node.host is not None and s.node.host.host_id == host_id), None
        )
        link = self._links.get(host_id)
        if seen is None:
            if link is None:
                raise HandsUnavailable(f"no node has the hands host {host_id!r}")
            return link
        address = _facts(seen).address
        if link is None or link.address != address:
            replaced = link
            try:
                client = self._connect(seen)
            except HandsUnavailable as error:
                self._unreachable.failed(host_id, address, error)
                raise
            self._prune()
            link = self._links[host_id] = Link(client=client, address=address)
            if replaced is not None:  # closed once nobody waits for it any more
                self._left.append(replaced)
        self._links.move_to_end(host_id)
        return link

    def _prune(self) -> None:
        """Forget what was counted of hosts that no node has any more."""
        listed = {_facts(seen).host_id for seen in self._nodes() if seen.node.host is not None}
        self._unreachable.forget(listed)
        for host_id in self._unlisted_since.keys() - self._links.keys():
            del self._unlisted_since[host_id]

    async def through(self, host_id: str, request: Coroutine[Any, Any, T]) -> T:
        """Await a request to the host, but not one that is lost. Raises HandsUnavailable."""
        link = self._links[host_id]
        if (untrusted := self._unreachable.blocks(host_id)) is not None:
            request.close()
            raise untrusted
        link.users += 1
        task = asyncio.ensure_future(self._checked(host_id, link, request))
        try:
            while True:
                await asyncio.wait({task}, timeout=HOST_LOOK_SECONDS)
                if task.done():
                    break
                if self.is_lost(host_id) and not await _answers(link.client, host_id):
                    raise HandsUnavailable(f"the hands host {host_id!r} is lost")
            if not isinstance(task.exception(), HandsUnavailable):  # an answer, if not a welcome one
                link.away_since = None
                self._unlisted_since.pop(host_id, None)
                self._unreachable.answered(host_id)
            return task.result()
        except HandsUnavailable as error:
            self.failed(link)
            self._unreachable.failed(host_id, link.address, error)
            raise
        finally:
            task.cancel()
            link.users -= 1
            await self._forget_links()

    def failed(self, link: Link) -> None:
        """The host did not answer."""
        link.failed(are_we_cut_off=self._are_we_cut_off())

    @asynccontextmanager
    async def lent(self, host_id: str) -> AsyncIterator[HandsClient]:
        """For requests that stream: a client of the host, known to be that host's. Raises
        HandsUnavailable."""
        link = self.link(host_id)
        await self.through(host_id, link.client.placement(SessionId("")))
        link.users += 1
        try:
            yield link.client
        finally:
            link.users -= 1

    async def _checked(self, host_id: str, link: Link, request: Coroutine[Any, Any, T]) -> T:
        """Await a request once the host behind the link has said that it is the one: containers of one
        machine may have one boot id and one path, and then a node finds its own host under each of them.
        Asked once for each connection. Raises HandsUnavailable."""
        try:
            found = (await link.client.placement(SessionId(""))).host_id
            if found != host_id:  # it may be another one by now
                found = str((await link.client.health())["host_id"])
            if found != host_id:
                if not link.is_told:
                    link.is_told = True
                    log.warning(
                        "hands host %s is at %s, where we find host %s: nodes that share no sockets need"
                        " CORRAL_HANDS_LISTEN on each of them",
                        host_id,
                        link.address,
                        found,
                    )
                raise HandsUnavailable(f"another hands host is at the address of {host_id!r}")
            return await request
        finally:
            request.close()  # if it was never awaited

    async def _forget_links(self) -> None:
        """Close what was not used for longest, once there are too many; and what was replaced."""
        for link in [left for left in self._left if left.users == 0]:
            self._left.remove(link)
            await link.client.aclose()
        if len(self._links) > HOST_CLIENTS_MAX:
            oldest = next((h for h, link in self._links.items() if link.users == 0), None)
            if oldest is not None:
                await self._links.pop(oldest).client.aclose()

    async def aclose(self) -> None:
        """Close every connection. Calls go on."""
        links = [*self._links.values(), *self._left]
        self._links.clear()
        self._left.clear()
        for link in links:
            await link.client.aclose()


async def _answers(client: HandsClient, host_id: str) -> bool:
    with suppress(HandsUnavailable, TimeoutError):
        async with asyncio.timeout(HANDS_CONNECT_SECONDS):
            return bool((await client.health())["host_id"] == host_id)
    return False


def _facts(seen: SeenNode) -> HostFacts:
    assert seen.node.host is not None
    return seen.node.host
