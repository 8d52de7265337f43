"""What our pages say of each kind of link: the row of `mcp_auth.kinds` in HTML."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol
from urllib.parse import urlsplit

from mcp_auth.config.models import Config
from mcp_auth.kinds import KEY_FORM, SIGN_IN, LinkKind, kind_of
from mcp_auth.net.rules import shown_host
from mcp_auth.net.sites import browser_host, issued_elsewhere
from mcp_auth.oauth.vendors import where_to_get_key
from mcp_auth.records import KeyForm, Linked, SignIn
from mcp_auth.web import page_texts as texts
from mcp_auth.web.pages import Message, Page, Start, go_page, key_page


class KindPages(Protocol):
    """The pages of one kind of link."""

    working: str
    """The heading while it is being finished."""

    def start(self, record: Any) -> Start:
        """What the page with Continue says."""
        ...

    def released(self, record: Any, config: Config, carried: Mapping[str, str] | None) -> Page:
        """What the bound browser sees once it may go on. `carried`: as in `mcp_auth.web.pages.code_page`."""
        ...

    def done(self, record: Any) -> Message:
        """That it ended well."""
        ...


class SignInPages:
    working = texts.WORKING_HEADING

    def start(self, sign_in: SignIn) -> Start:
        elsewhere, host = issued_elsewhere(sign_in.metadata), browser_host(sign_in.metadata)
        before = sign_in.scope_before.split() if sign_in.scope_before is not None else None
        # Nothing is new where there was no access before.
        asked = [(one, before is not None and one not in before) for one in (sign_in.scope or "").split()]
        return Start(
            texts.SIGN_IN_HEADING,
            texts.SIGN_IN_LEAD,
            shown_host(urlsplit(sign_in.server_url).hostname or ""),
            host,
            ((texts.ISSUER, host, texts.issued_by(elsewhere) if elsewhere else ""),),
            tuple(sorted(asked, key=lambda scope: not scope[1])),
        )

    def released(self, sign_in: SignIn, config: Config, carried: Mapping[str, str] | None) -> Page:
        return go_page(sign_in)

    def done(self, sign_in: SignIn) -> Message:
        facts = [(texts.ACCOUNT, sign_in.account)] if sign_in.account else []
        check = sign_in.check
        if check is not None and check.tools is not None:
            facts.append((texts.TOOLS, str(len(check.tools))))
        elif check is not None:
            facts.append((texts.CONNECTION, texts.connection(check.state, check.detail)))
        return Message(
            texts.DONE_HEADING, (), "good", names={"server": sign_in.server}, facts=tuple(facts), closing=texts.CLOSE
        )


class KeyPages:
    working = texts.KEY_WORKING_HEADING

    def start(self, form: KeyForm) -> Start:
        return Start(texts.KEY_HEADING, texts.KEY_START_LEAD)

    def released(self, form: KeyForm, config: Config, carried: Mapping[str, str] | None) -> Page:
        return key_page(form, where=where_to_get(form, config), carried=carried)

    def done(self, form: KeyForm) -> Message:
        lines = (form.result.sentence if form.result is not None else "",)
        return Message(texts.KEY_DONE_HEADING, lines, "good", names={"server": form.server}, closing=texts.CLOSE)


_PAGES: dict[LinkKind, KindPages] = {SIGN_IN: SignInPages(), KEY_FORM: KeyPages()}


def pages_of(record: Linked) -> KindPages:
    return _PAGES[kind_of(record)]


def where_to_get(form: KeyForm, config: Config) -> str | None:
    """Where the keys of this form's server are made, where that is known."""
    server = config.servers.get(form.server)
    return where_to_get_key(server.url) if server is not None and server.url is not None else None
