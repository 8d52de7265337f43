"""Every error of this package: one root, a sentence for the person, and the next step.

Texts hold no secret and no value of the configuration; names of servers, keys and files only.
"""

from __future__ import annotations

import errno
from typing import ClassVar

from mcp_auth.outcome import Next, Outcome, Step


class McpAuthError(Exception):
    """Root of all errors raised on purpose.

    Args:
        message: one sentence for the person: what happened and why. Never a secret, never a link.
        server: whose matter it is, where the message does not name it.
        next_step: what to do now, a command or a short instruction. Left out: the class's own.
    """

    code: ClassVar[str] = "error"
    usual_next_step: ClassVar[Step | None] = None

    def __init__(self, message: str, *, server: str | None = None, next_step: Step | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.server = server
        self.next_step = next_step or self.usual_next_step

    @property
    def outcome(self) -> Outcome:
        return Outcome(self.code, self.message, self.server, self.next_step)

    @property
    def text(self) -> str:
        """The message, with the server's name."""
        return self.outcome.text

    def __str__(self) -> str:
        """For logs and embedding programs: a command stands in it without the name of a program."""
        return f"{sentence(self.text)} Next: {self.next_step}" if self.next_step else sentence(self.text)


def sentence(text: str) -> str:
    """`text` with a full stop, if nothing ends it."""
    return text if text.endswith((".", "!", "?", "…")) else f"{text}."


class ConfigError(McpAuthError):
    """A configuration that cannot be used. Names file, line (from 1) and key where known."""

    code = "configuration"
    usual_next_step = Next("doctor", around="correct the configuration, then: {}")

    def __init__(
        self,
        message: str,
        *,
        file: str | None = None,
        line: int | None = None,
        key: str | None = None,
        next_step: Step | None = None,
    ) -> None:
        where = ":".join(str(part) for part in (file, line) if part is not None)
        text = f"{where}: {message}" if where else message
        super().__init__(text, next_step=next_step)
        self.file = file
        self.line = line
        self.key = key


class WritableByOthers(ConfigError):
    """Somebody else may write what this program trusts (see `mcp_auth.config.permissions`)."""

    code = "writable_by_others"


class UnknownServer(McpAuthError):
    code = "unknown_server"


class NotAllowed(McpAuthError):
    """The person may not do this."""

    code = "not_allowed"


class WrongCode(NotAllowed):
    """A code that belongs to nothing, or to nothing any more."""

    code = "wrong_code"


class StoreError(McpAuthError):
    """The store could not be read or written (a full disk, a damaged file, missing rights)."""

    code = "store"
    usual_next_step = Next("doctor")


class RecordDamaged(StoreError):
    """What is stored is no record of ours (torn, of another kind of file, of a newer version). It is left as it is."""

    code = "record_damaged"


class Busy(McpAuthError):
    """Somebody else holds the lease for longer than this caller was willing to wait."""

    code = "busy"


def cannot_be_read(what: object, error: OSError) -> McpAuthError:
    """The error for a file that cannot be read. `what`: its path, as it is shown."""
    if is_out_of_descriptors(error):
        return TooManyOpenFiles()
    return StoreError(f"{what} cannot be read ({error.strerror or type(error).__name__}).")


def is_out_of_descriptors(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)


def lacks_descriptors(error: BaseException | None) -> bool:
    """Whether a lack of file descriptors is behind `error`."""
    # Errors may be each other's context.
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        if is_out_of_descriptors(one):
            return True
        seen.add(id(one))
        waiting += [one.__cause__, one.__context__]
        if isinstance(one, BaseExceptionGroup):
            waiting += one.exceptions
    return False


# -- network ---------------------------------------------------------------------------------


class Unreachable(McpAuthError):
    """No usable answer: connection refused, name unknown, timeout, broken TLS, oversized body."""

    code = "unreachable"


class TooManyOpenFiles(Unreachable):
    """The system gives this process, or any, no more file descriptors. Of what was asked for nothing is known."""

    code = "too_many_open_files"
    usual_next_step = "end other programs, or raise the limit: ulimit -n 4096"

    def __init__(self) -> None:
        super().__init__("This process may open no more files or connections at this moment.")


class AddressRefused(Unreachable):
    """The network rules (docs/architecture.md, "Network") forbid this address or scheme."""

    code = "address_refused"


class PortBusy(McpAuthError):
    """The callback port belongs to another program."""

    code = "port_busy"


# -- sign-in: before the link ----------------------------------------------------------------


class SignInError(McpAuthError):
    """A sign-in cannot start or go on."""

    code = "sign_in_failed"


class DiscoveryFailed(SignInError):
    """No usable metadata (RFC 9728, RFC 8414)."""

    code = "discovery_failed"


class NoMetadata(DiscoveryFailed):
    """The server publishes no OAuth metadata at all."""


class IssuerMismatch(SignInError):
    """The metadata names another issuer than the one asked for (RFC 8414 section 3.3)."""

    code = "issuer_mismatch"


class MixedEndpoints(SignInError):
    """The metadata puts together endpoints of different sites, so that an answer could be mixed up (RFC 9207)."""

    code = "mixed_endpoints"


class ResourceMismatch(SignInError):
    """The protected resource metadata speaks for another server (RFC 9728 section 3.3)."""

    code = "resource_mismatch"


class PkceNotSupported(SignInError):
    """The authorization server does not advertise PKCE S256 (RFC 7636)."""

    code = "pkce_not_supported"


class ClientRegistrationNeeded(SignInError):
    """No client id: none configured, none by metadata document, no dynamic registration."""

    code = "client_registration_needed"

    def __init__(self, message: str, *, redirect_uri: str, next_step: Step | None = None) -> None:
        super().__init__(message, next_step=next_step)
        self.redirect_uri = redirect_uri


class RegistrationRefused(ClientRegistrationNeeded):
    """Dynamic registration (RFC 7591) answered no."""

    code = "registration_refused"


# -- sign-in: the callback -------------------------------------------------------------------


class CallbackRejected(SignInError):
    """The redirect's parameters are not an answer to one of our open sign-ins; nothing was changed."""

    code = "callback_rejected"


class UnknownSignIn(CallbackRejected):
    """No sign-in has this `state` (forged, from another home, or long gone)."""

    code = "unknown_sign_in"


class AlreadyFinished(CallbackRejected):
    """The sign-in ended before; a redirect counts once."""

    code = "already_finished"


class SignInExpired(CallbackRejected):
    """The ten minutes are over."""

    code = "sign_in_expired"


class WrongIssuer(CallbackRejected):
    """`iss` is missing or belongs to another authorization server (RFC 9207)."""

    code = "wrong_issuer"


class WrongPerson(CallbackRejected):
    """Somebody else than the principal who began."""

    code = "wrong_person"


class OtherBrowser(CallbackRejected):
    """The sign-in goes on in one browser, and this is another one (or what it kept is gone)."""

    code = "other_browser"


class NotProven(CallbackRejected):
    """Nothing says yet that the person at the browser is the one who asked in the chat."""

    code = "not_proven"


class NotConfirmedYet(CallbackRejected):
    """The last page was sent before its code was sent in the chat. Both still count."""

    code = "not_confirmed_yet"


class CodeRejected(SignInError):
    """The code that was sent in the chat releases nothing."""

    code = "code_rejected"


class AuthorizationRefused(SignInError):
    """The authorization server redirected with `error=` (RFC 6749 section 4.1.2.1)."""

    code = "authorization_refused"


class TokenRequestFailed(SignInError):
    """The token endpoint did not give a usable token."""

    code = "token_request_failed"


# -- using a server --------------------------------------------------------------------------


class CredentialsNeeded(McpAuthError):
    """The server cannot be used with what is stored."""

    code = "credentials_needed"


class SignInNeeded(CredentialsNeeded):
    """No grant."""

    code = "sign_in_needed"


class ReauthorizationNeeded(CredentialsNeeded):
    """There is a grant, and only a person can make it work again."""

    code = "reauthorization_needed"


class RefreshUnavailable(CredentialsNeeded):
    """The access token ended and the refresh failed for now; the grant is kept.

    `retry_after` is in seconds.
    """

    code = "refresh_unavailable"

    def __init__(self, message: str, *, retry_after: float, next_step: Step | None = None) -> None:
        super().__init__(message, next_step=next_step)
        self.retry_after = retry_after


class KeyMissing(CredentialsNeeded):
    """A variable that the server's entry needs has no value."""

    code = "key_missing"

    def __init__(self, message: str, *, variables: tuple[str, ...], next_step: Step | None = None) -> None:
        super().__init__(message, next_step=next_step)
        self.variables = variables


class KeyRefused(McpAuthError):
    """The server answered 401 or 403 to the key; nothing was stored."""

    code = "key_refused"


class KeyInvalid(McpAuthError):
    """The value or the variable's name cannot be stored or sent (placeholders, line breaks, a protected name)."""

    code = "key_invalid"
    usual_next_step = "copy the key once more, whole, and enter that"


class ServerRefused(McpAuthError):
    """The MCP server answered 401 or 403 to what we sent."""

    code = "refused"
