"""The sections of a configuration file, checked: each server's entry by itself, `gateway:` as a whole.

Texts made here name file, line and key, the type found and what is allowed, and never a value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from ipaddress import ip_network
from pathlib import Path
from typing import Any, TypeVar, get_args

import msgspec

from mcp_auth.config.documents import Document, KeyPath, read_document
from mcp_auth.config.models import (
    STORE_CLAUSE,
    STORES,
    CallbackOptions,
    Config,
    GatewayOptions,
    NetworkOptions,
    OAuthOptions,
    Server,
    Settings,
    Transport,
    is_name,
    mirror_name,
)
from mcp_auth.config.people import people_problem
from mcp_auth.config.urls import public_url_problem, split_url, url_problem
from mcp_auth.config.variables import is_malformed, references
from mcp_auth.errors import ConfigError, McpAuthError
from mcp_auth.net.issuers import TENANT
from mcp_auth.net.rules import is_loopback_host, is_loopback_url
from mcp_auth.outcome import Step
from mcp_auth.records import check_owner
from mcp_auth.small_files import exists

_SECTIONS = frozenset({"mcp_servers", "mcpServers", "servers", "gateway", "include"})
_MAX_FILES = 100


class Loading:
    """What the files read so far have given; the first one is the operator's own. Raises ConfigError throughout."""

    def __init__(self) -> None:
        self.servers: dict[str, Server] = {}
        self.places: dict[str, _Place] = {}
        self.gateway = GatewayOptions()
        self.gateway_place: _Place | None = None
        self.gateway_variables: set[str] = set()
        self.warnings: list[str] = []
        self.files: list[Path] = []

    def add_file(self, file: Path) -> None:
        included = bool(self.files)
        self.files.append(file)
        document = read_document(file, _SECTIONS)
        root = _Place(document, (), str(file))
        if included and "gateway" in document.data:
            raise root.at("gateway").error("is in an included file; only the main file may have it")
        if not included:
            self._add_gateway(root.at("gateway"))
        self._add_servers(root)
        for place, target in _includes(root.at("include")):
            self._include(place, target)

    def config(self, home: Path) -> Config:
        servers = self._without_collisions()
        _check_people(self.gateway, servers, self.gateway_place)
        return Config(
            home=home,
            path=self.files[0],
            servers=servers,
            gateway=self.gateway,
            gateway_variables=frozenset(self.gateway_variables),
            warnings=tuple(self.warnings),
        )

    def _without_collisions(self) -> dict[str, Server]:
        """The servers; those whose grants would share a file of the Hermes mirror have a problem instead."""
        names: dict[str, list[str]] = {}
        for server in self.servers.values():
            if _may_need_grant(server):
                names.setdefault(mirror_name(server.name).casefold(), []).append(server.name)
        for group in names.values():
            for name in group if len(group) > 1 else ():
                others = ", ".join(_shown(other) for other in group if other != name)
                error = self.places[name].error(
                    f"would store its tokens in the same file as {others}; rename one of them"
                )
                self.servers[name] = msgspec.structs.replace(self.servers[name], problem=error.message)
        return self.servers

    def _add_gateway(self, place: _Place) -> None:
        place.check_faults()
        raw = place.document.data.get("gateway")
        self.gateway_place = place
        if raw is None:
            return
        self.gateway = _gateway(place, raw, self.warnings)
        for where, text in _texts(raw, ()):
            if is_malformed(text):
                raise place.at(*where).error(f"has a malformed placeholder; {_PLACEHOLDERS}")
            self.gateway_variables.update(reference.name for reference in references(text))

    def _add_servers(self, root: _Place) -> None:
        sections = ("mcp_servers", "mcpServers", "servers") if root.document.is_json else ("mcp_servers",)
        found = [section for section in sections if section in root.document.data]
        if not found:
            self._hint_at_missing_section(root)
        for section in found:
            place = root.at(section)
            for fault in root.document.faults:
                if fault.path == place.path:
                    place.check_faults()
            raw = root.document.data[section]
            if raw is None:
                continue
            if not isinstance(raw, dict):
                raise place.error(_must_be("a mapping of names to servers", raw))
            for name, entry in raw.items():
                self._add_server(_Place(root.document, (section, name), root.document.file.name), name, entry)

    def _add_server(self, place: _Place, name: str, raw: Any) -> None:
        if name in self.servers:
            first = self.places[name]
            self.warnings.append(
                place.error(
                    f"is ignored, because {first.shown}:{first.line} already defines a server of that name"
                ).message
            )
            return
        self.places[name] = place
        self.servers[name] = _server(place, name, raw, self.warnings)

    def _hint_at_missing_section(self, root: _Place) -> None:
        if root.document.is_json:
            self.warnings.append(f"{root.document.file}: this file has no mcpServers")
            return
        for key in ("mcpServers", "mcp-servers", "mcp_server", "mcpservers", "servers"):
            if key in root.document.data:
                self.warnings.append(root.at(key).error("is not used in a YAML file; write mcp_servers").message)

    def _include(self, place: _Place, target: str) -> None:
        """Add the servers of another file; one that cannot be used is left out with a warning, and the others work."""
        if len(self.files) >= _MAX_FILES:
            raise place.error(f"includes more than {_MAX_FILES} files")
        try:
            folder = Path() if target.startswith("~") else place.document.file.parent
            file = absolute(folder / target)
            if file in self.files:
                return
            if not exists(file):
                raise place.error("names a file that does not exist")
            self.add_file(file)
        except ConfigError as error:
            self.warnings.append(f"{error.message.removesuffix('.')}; the rest still works.")


class _Place(msgspec.Struct, frozen=True):
    """A part of a document, for the texts about it. `shown` is the file as it is named there."""

    document: Document
    path: KeyPath
    shown: str

    def at(self, *steps: str | int) -> _Place:
        return _Place(self.document, (*self.path, *steps), self.shown)

    @property
    def key(self) -> str:
        text = ""
        for step in self.path:
            text += f"[{step}]" if isinstance(step, int) else f".{_shown(step)}"
        return text.removeprefix(".")

    @property
    def line(self) -> int | None:
        return self.document.locate(self.path)

    def error(self, clause: str, *, next_step: Step | None = None) -> ConfigError:
        return ConfigError(f"{self.key} {clause}", file=self.shown, line=self.line, key=self.key, next_step=next_step)

    def check_faults(self) -> None:
        """Raises the first fault that the reader found at or below this place."""
        for fault in self.document.faults:
            if fault.path[: len(self.path)] == self.path:
                key = _Place(self.document, fault.path, self.shown).key
                raise ConfigError(f"{key} {fault.message}", file=self.shown, line=fault.line, key=key)


def _shown(name: str) -> str:
    """A name of the file that is fit for a sentence: printable, at most 80 characters."""
    return "".join(character if character.isprintable() else "?" for character in name[:80])


def _includes(place: _Place) -> Iterator[tuple[_Place, str]]:
    place.check_faults()
    raw = place.document.data.get("include")
    if raw is None:
        return
    for index, target in enumerate(raw if isinstance(raw, list) else [raw]):
        where = place.at(index) if isinstance(raw, list) else place
        if not isinstance(target, str) or not target or "\0" in target:
            raise where.error(_must_be("a file name or a list of file names", target))
        yield where, target


def _may_need_grant(server: Server) -> bool:
    return server.url is not None and server.enabled and (server.auth == "oauth" or not server.headers)


_SERVER_KEYS = frozenset(Server.__struct_fields__) - {"name", "problem"}
# Known to Hermes or to other clients, and without a meaning here.
_FOREIGN_KEYS = frozenset({"type", "disabled", "sampling", "description"})
_TOOL_KEYS = frozenset({"include", "exclude", "resources", "prompts"})
_TRANSPORTS: dict[str, Transport] = {
    "http": "http",
    "streamable-http": "http",
    "streamable_http": "http",
    "streamablehttp": "http",
    "sse": "sse",
    "stdio": "stdio",
}
_PLACEHOLDERS = "use ${VAR}, ${VAR:-default} or ${env:VAR}"


def _server(place: _Place, name: str, raw: Any, warnings: list[str]) -> Server:
    try:
        place.check_faults()
        return _checked_server(place, name, raw, warnings)
    except ConfigError as error:
        off = isinstance(raw, dict) and (raw.get("enabled") is False or raw.get("disabled") is True)
        return Server(name=name, enabled=not off, problem=error.message)


def _checked_server(place: _Place, name: str, raw: Any, warnings: list[str]) -> Server:
    if not is_name(name):
        raise place.error("has a name that is empty, too long or contains control characters")
    given = _present(place, raw)
    unknown = sorted(given.keys() - _SERVER_KEYS - _FOREIGN_KEYS)
    if unknown:
        warnings.append(_unknown_keys(place, unknown))
    fields = {key: value for key, value in given.items() if key in _SERVER_KEYS}
    fields["enabled"] = _enabled(place, given)
    fields["transport"] = _transport(place, given)
    if "oauth" in fields:
        fields["oauth"] = _oauth_block(place.at("oauth"), fields["oauth"], warnings)
    if "tools" in fields:
        fields["tools"] = _tools_block(place.at("tools"), fields["tools"], warnings)
    server = _typed(place, {**fields, "name": name}, Server)
    _check_texts(place, server)
    _check_target(place, server)
    _check_headers(place, server)
    _check_oauth(place.at("oauth"), server.oauth)
    return server


def _present(place: _Place, raw: Any) -> dict[str, Any]:
    """The keys of a mapping that have a value; `headers:` with nothing behind it counts as absent."""
    if not isinstance(raw, dict):
        raise place.error(_must_be("a mapping", raw))
    return {key: value for key, value in raw.items() if value is not None}


def _unknown_keys(place: _Place, unknown: Iterable[str]) -> str:
    return place.error(f"has unknown keys, which are ignored: {', '.join(map(_shown, unknown))}").message


def _enabled(place: _Place, given: Mapping[str, Any]) -> bool:
    for key in ("enabled", "disabled"):
        if not isinstance(given.get(key, True), bool):
            raise place.at(key).error(_must_be("true or false", given[key]))
    return given.get("enabled", True) and not given.get("disabled", False)


def _transport(place: _Place, given: Mapping[str, Any]) -> Transport:
    if "url" in given and "command" in given:
        raise place.error("has both url and command; keep one of them")
    if "url" not in given and "command" not in given:
        raise place.error("needs a url or a command")
    named: set[Transport] = set()
    for key in ("transport", "type"):
        value = given.get(key)
        if value is None:
            continue
        if not isinstance(value, str) or value.lower() not in _TRANSPORTS:
            raise place.at(key).error("must be http, streamable-http, sse or stdio")
        named.add(_TRANSPORTS[value.lower()])
    if len(named) > 1:
        raise place.error("has a type and a transport that contradict each other")
    default: Transport = "stdio" if "command" in given else "http"
    transport = named.pop() if named else default
    if (transport == "stdio") != ("command" in given):
        wanted = "command" if transport == "stdio" else "url"
        raise place.error(f"has a transport that needs a {wanted}, but there is none")
    return transport


def _oauth_block(place: _Place, raw: Any, warnings: list[str]) -> dict[str, Any]:
    given = _present(place, raw)
    known = set(OAuthOptions.__struct_fields__)
    unknown = sorted(given.keys() - known)
    if unknown:
        warnings.append(_unknown_keys(place, unknown))
    # Hermes writes 0 for "any free port".
    return {
        key: value
        for key, value in given.items()
        if key in known and not (key == "redirect_port" and value == 0 and not isinstance(value, bool))
    }


def _tools_block(place: _Place, raw: Any, warnings: list[str]) -> dict[str, Any]:
    given = _present(place, raw)
    unknown = sorted(given.keys() - _TOOL_KEYS)
    if unknown:
        warnings.append(_unknown_keys(place, unknown))
    return {
        key: [value] if isinstance(value, str) else value
        for key, value in given.items()
        if key in {"include", "exclude"}
    }


def _check_texts(place: _Place, server: Server) -> None:
    for where, text in server.templates().items():
        if is_malformed(text):
            raise place.at(*_steps(where)).error(f"has a malformed placeholder; {_PLACEHOLDERS}")
        if "\0" in text or (not where.startswith(("args", "env.")) and any(c in text for c in "\r\n")):
            raise place.at(*_steps(where)).error("contains a line break or NUL")
    oauth = server.oauth
    literal = {
        **{key: getattr(server, key) for key in _LITERAL},
        **{f"oauth.{key}": getattr(oauth, key) for key in _LITERAL_OAUTH},
        **{f"oauth.authorize_params.{key}": value for key, value in oauth.authorize_params.items()},
    }
    for where, value in literal.items():
        if isinstance(value, str) and "${" in value:
            raise place.at(*_steps(where)).error("contains a placeholder, but this key cannot use variables")


# Nobody puts variables into these, so that a placeholder would be sent as it is. A grant is bound to its
# server's URL, which therefore has to be the same at each use.
_LITERAL = ("url", "command", "cwd")
_LITERAL_OAUTH = (
    "client_id",
    "scope",
    "redirect_uri",
    "redirect_host",
    "client_name",
    "client_metadata_url",
    "resource",
    "issuer",
)


def _steps(where: str) -> KeyPath:
    """The path of one of `mcp_auth.config.variables.templates`: `args[0]`, `headers.X-Key`, `url`."""
    if where.startswith("args["):
        return "args", int(where[5:-1])
    return tuple(where.split(".", 1))


def _check_target(place: _Place, server: Server) -> None:
    if server.url is None:
        if not server.command or not server.command.strip():
            raise place.at("command").error("is empty; it must be the name of a program")
        if server.auth is not None:
            raise place.at("auth").error("is oauth, but this server is a command; OAuth needs a url")
        for name in server.env:
            if not name or "=" in name or "\0" in name:
                raise place.at("env").error("has an invalid variable name")
        return
    problem = url_problem(server.url, allow_http=server.allow_http, oauth=server.auth == "oauth")
    if problem:
        raise place.at("url").error(problem)


_HEADER_NAME = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"


def _check_headers(place: _Place, server: Server) -> None:
    for name in server.headers:
        if not re.fullmatch(_HEADER_NAME, name):
            raise place.at("headers", name).error("is not a valid header name (RFC 9110 section 5.1)")
        if server.auth == "oauth" and name.lower() == "authorization":
            raise place.at("headers", name).error("cannot be combined with auth: oauth; keep one of them")


# Each of these binds the answer to the one who asked; a configured value would loosen that.
_OWN_PARAMS = frozenset(
    {
        *("state", "redirect_uri", "client_id", "response_type", "response_mode", "resource", "scope"),
        # Either holds a whole request of its own (RFC 9101).
        *("request", "request_uri"),
    }
)


def _check_oauth(place: _Place, oauth: OAuthOptions) -> None:
    for name in oauth.authorize_params:
        plain = name.strip().lower()
        if not plain or plain in _OWN_PARAMS or plain.startswith("code_challenge"):
            raise place.at("authorize_params", name).error("cannot be set here; the sign-in sets it itself")
    if oauth.redirect_uri is not None and (problem := public_url_problem(oauth.redirect_uri)):
        raise place.at("redirect_uri").error(problem)
    if oauth.redirect_host is not None and not is_loopback_host(oauth.redirect_host):
        raise place.at("redirect_host").error("must be loopback: localhost, 127.0.0.1 or ::1")
    if oauth.client_metadata_url is not None:
        problem, parts = split_url(oauth.client_metadata_url)
        if problem or parts is None or parts.scheme != "https" or parts.path in {"", "/"}:
            raise place.at("client_metadata_url").error(problem or "is not an https URL with a path")
    if oauth.issuer is not None:
        _check_issuer(place.at("issuer"), oauth.issuer)
    if isinstance(oauth.resource, str):
        _check_resource(place.at("resource"), oauth.resource)


def _check_issuer(place: _Place, issuer: str) -> None:
    problem, parts = split_url(issuer.replace(TENANT, "tenant"))
    if problem or parts is None or not (parts.scheme == "https" or is_loopback_url(issuer)):
        raise place.error(problem or "is not an https URL (RFC 8414 section 2)")
    if "?" in issuer or "#" in issuer or not issuer.isascii():
        raise place.error("contains a query, a fragment or characters that an issuer cannot have (RFC 8414 section 2)")
    if re.search(r"[{}]", issuer.replace(TENANT, "")):
        raise place.error(f"contains braces; only {TENANT} may be used, for any one GUID")


def _check_resource(place: _Place, resource: str) -> None:
    # RFC 8707 section 2: an absolute URI without a fragment; `api://...` is one too.
    if not re.match(r"[A-Za-z][A-Za-z0-9+.-]*:\S", resource) or "#" in resource or not resource.isprintable():
        raise place.error("must be an absolute URI without a fragment (RFC 8707 section 2)")


_GATEWAY_KEYS = frozenset(GatewayOptions.__struct_fields__) - {"platforms"}
_PLATFORMS = frozenset({"telegram", "discord", "slack", "whatsapp", "matrix"})


def _gateway(place: _Place, raw: Any, warnings: list[str]) -> GatewayOptions:
    given = _present(place, raw)
    fields: dict[str, Any] = {key: value for key, value in given.items() if key in _GATEWAY_KEYS}
    for key in ("callback", "network"):
        if key in fields:
            fields[key] = _block(place.at(key), fields[key], warnings)
    for key in ("allow", "admins", "trusted_proxies"):
        if isinstance(fields.get(key), str):
            fields[key] = [fields[key]]
    fields["platforms"] = _platforms(place, raw, warnings)
    gateway = _typed(place, fields, GatewayOptions)
    _check_principals(place, gateway)
    if gateway.store not in STORES:
        raise place.at("store").error(STORE_CLAUSE)
    for index, proxy in enumerate(gateway.trusted_proxies):
        if not _is_network(proxy):
            raise place.at("trusted_proxies", index).error(
                "must be an address or a network, such as 10.0.0.5 or 10.0.0.0/8"
            )
    if gateway.public_url is None:
        return gateway
    problem = public_url_problem(gateway.public_url)
    if problem is None and "?" in gateway.public_url:
        problem = "must not have a query (?...)"
    if problem:
        raise place.at("public_url").error(problem)
    return msgspec.structs.replace(gateway, public_url=gateway.public_url.rstrip("/"))


def _is_network(text: str) -> bool:
    try:
        ip_network(text)
    except ValueError:
        return False
    return True


def _block(place: _Place, raw: Any, warnings: list[str]) -> dict[str, Any]:
    model = CallbackOptions if place.path[-1] == "callback" else NetworkOptions
    given = _present(place, raw)
    unknown = sorted(given.keys() - set(model.__struct_fields__))
    if unknown:
        warnings.append(_unknown_keys(place, unknown))
    return {key: value for key, value in given.items() if key not in unknown}


def _platforms(place: _Place, raw: Mapping[str, Any], warnings: list[str]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    unknown: list[str] = []
    for key, value in raw.items():
        if key in _GATEWAY_KEYS:
            continue
        if isinstance(value, dict) or (value is None and key in _PLATFORMS):
            found[key] = value or {}
            if key not in _PLATFORMS:
                _warn_of_misspelling(place.at(key), key, warnings)
        elif key in _PLATFORMS:
            raise place.at(key).error(_must_be("a mapping", value))
        else:
            unknown.append(key)
    if unknown:
        warnings.append(_unknown_keys(place, sorted(unknown)))
    return found


def platform_section(config: Config, platform: str, model: type[Model], resolve: Callable[[str], str]) -> Model:
    """The section `gateway.<platform>` as `model`, every placeholder replaced by what `resolve` gives for it now.

    Keys that `model` does not have are logged and ignored.

    Raises:
        ConfigError: a key is missing or of another kind, or a variable has no value.
    """
    document = Document(config.path or config.home / "config.yaml", {}, (), lambda _: None, is_json=False)
    if config.path is not None:
        document = read_document(config.path, {"gateway"})
    place = _Place(document, ("gateway", platform), document.file.name)
    given = _present(place, config.gateway.platforms.get(platform, {}))
    for unknown in sorted(given.keys() - set(model.__struct_fields__)):
        import logging

        logging.getLogger(__name__).warning("%s", _unknown_keys(place, [unknown]))
    fields = {key: _filled(place.at(key), value, resolve) for key, value in given.items()}
    for one in msgspec.structs.fields(model):
        if one.required and one.name not in fields:
            raise place.error(f"has no {one.name}", next_step=f"set gateway.{platform}.{one.name}")
    return _typed(place, {key: value for key, value in fields.items() if key in model.__struct_fields__}, model)


def _filled(place: _Place, value: Any, resolve: Callable[[str], str]) -> Any:
    if isinstance(value, dict):
        return {key: _filled(place.at(key), inner, resolve) for key, inner in value.items()}
    if isinstance(value, list):
        return [_filled(place.at(index), inner, resolve) for index, inner in enumerate(value)]
    if not isinstance(value, str):
        return value
    try:
        return resolve(value)
    except McpAuthError as error:
        raise place.error(
            f"cannot be filled in: {error.message}", next_step=error.next_step or "set the variable in .env"
        ) from None


def _warn_of_misspelling(place: _Place, key: str, warnings: list[str]) -> None:
    from difflib import get_close_matches

    for near in get_close_matches(key, _GATEWAY_KEYS | _PLATFORMS, n=1, cutoff=0.8):
        warnings.append(place.error(f"is not a known key and counts as a platform; did you mean {near}?").message)


def _check_principals(place: _Place, gateway: GatewayOptions) -> None:
    owners: dict[str, str] = {}
    for name, principals in gateway.people.items():
        try:
            check_owner(f"person:{name}")
        except ValueError:
            raise place.at("people", name).error(
                "is not a valid name for a person; use a word without : and /"
            ) from None
        for index, principal in enumerate(principals):
            where = place.at("people", name, index)
            _check_principal(where, principal)
            if owners.setdefault(principal, name) != name:
                raise where.error(f"already belongs to {_shown(owners[principal])}; an account belongs to one person")
    for key, listed in (("allow", gateway.allow), ("admins", gateway.admins)):
        for index, principal in enumerate(listed):
            _check_principal(place.at(key, index), principal)


def _check_principal(place: _Place, text: str) -> None:
    platform, _, user = text.partition(":")
    usable = user and len(text) <= 200 and not any(c.isspace() or not c.isprintable() for c in user)
    if not platform.isidentifier() or not usable or "${" in text:
        raise place.error("is not an account; write platform:user, for example telegram:123456789")


def _check_people(gateway: GatewayOptions, servers: Mapping[str, Server], place: _Place | None) -> None:
    problem = people_problem(gateway, servers)
    if problem is not None and place is not None:
        raise place.at(problem.key).error(problem.clause, next_step=problem.next_step)


def _texts(raw: Any, path: KeyPath) -> Iterator[tuple[KeyPath, str]]:
    if isinstance(raw, str):
        yield path, raw
    elif isinstance(raw, dict):
        for key, value in raw.items():
            yield path, key
            yield from _texts(value, (*path, key))
    elif isinstance(raw, list):
        for index, value in enumerate(raw):
            yield from _texts(value, (*path, index))


Model = TypeVar("Model", bound=Settings)
_WORDS = {
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "a mapping",
    "null": "nothing",
}
_KINDS: dict[type, str] = {str: "str", bool: "bool", int: "int", float: "float", list: "array", dict: "object"}
_EXPECTED = r"Expected `(?P<allowed>[^`]+)`(?P<bound> [<>]=? [\d.]+)?(?:, got `(?P<found>\w+)`)?"
_SIGNS = {">": "greater than", ">=": "of at least", "<": "less than", "<=": "of at most"}
_PATH = r"`\$(?P<path>[^`]*)`$"


def _typed(place: _Place, raw: dict[str, Any], model: type[Model]) -> Model:
    try:
        return msgspec.convert(raw, model)
    except msgspec.ValidationError as error:
        text = str(error)
    # Outside the handler: msgspec's text may quote a value, and a chained error would keep it.
    raise _explained(place, raw, model, text)


def _explained(place: _Place, raw: Any, model: type[Settings], text: str) -> ConfigError:
    """msgspec's message in our words: it may quote a value, and knows neither line nor key of a free mapping."""
    path = re.search(_PATH, text)
    pattern = re.findall(r"\.(\w+)|\[(\d+|\.\.\.)\]", path["path"]) if path else []
    expected = re.match(_EXPECTED, text)
    found = expected["found"] if expected else None
    steps = _resolved([attribute or index for attribute, index in pattern], raw, found) or ()
    where = place.at(*steps)
    value = _value_at(raw, steps)
    if expected is None:
        allowed = _any_of(_choices(model, steps)) or "another value"
        return where.error(f"must be {allowed}")
    kinds = [_WORDS.get(kind, kind) for kind in expected["allowed"].split(" | ") if kind != "null"]
    choices = _choices(model, steps)
    allowed = _any_of(choices or kinds) + _bound(expected["bound"])
    hint = "; put it in quotes" if "text" in kinds and found in {"int", "float", "bool"} and not choices else ""
    is_out_of_range = expected["bound"] and found is None
    return where.error(f"must be {allowed}" if is_out_of_range else f"{_must_be(allowed, value)}{hint}")


def _any_of(words: Sequence[str]) -> str:
    return " or ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def _bound(text: str | None) -> str:
    """` > 0.0`, as msgspec writes it, in words."""
    if text is None:
        return ""
    sign, number = text.split()
    return f" {_SIGNS[sign]} {float(number):g}"


def _resolved(pattern: list[str], value: Any, found: str | None) -> KeyPath | None:
    """The path to the wrong value: `...` in msgspec's path is any key, so the first that fits is taken."""
    if not pattern:
        return () if found is None or _kind(value) == found else None
    step, rest = pattern[0], pattern[1:]
    keys: Iterable[str | int] = [step]
    if step == "...":
        keys = list(value) if isinstance(value, dict) else range(len(value))
    elif step.isdigit() and isinstance(value, list):
        keys = [int(step)]
    # Another place that fits the pattern may be shorter than the one that is meant.
    held = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        tail = _resolved(rest, value[key], found) if key in held else None
        if tail is not None:
            return (key, *tail)
    return None


def _value_at(raw: Any, steps: KeyPath) -> Any:
    for step in steps:
        raw = raw[step]
    return raw


def _choices(model: type[Settings], steps: KeyPath) -> list[str]:
    """The allowed words of the field at `steps`, when it has a closed list of them."""
    kind: Any = model
    for step in steps:
        if not (isinstance(kind, type) and issubclass(kind, Settings)):
            return []
        kind = next((field.type for field in msgspec.structs.fields(kind) if field.name == step), None)
    options = [kind, *get_args(kind)]
    return [str(word) for option in options for word in get_args(option) if isinstance(word, str)]


def _kind(value: Any) -> str:
    return "null" if value is None else _KINDS.get(type(value), "object")


def _must_be(allowed: str, value: Any) -> str:
    """What a value has to be and what it is, without saying the value."""
    return f"must be {allowed}, but it is empty" if value is None else f"must be {allowed}, not {_WORDS[_kind(value)]}"


def absolute(path: Path) -> Path:
    """`path` with `~` expanded, from the root on. Raises ConfigError when `~` is not known."""
    try:
        return path.expanduser().absolute()
    except (RuntimeError, ValueError):
        raise ConfigError("the home folder that ~ stands for is not known") from None
