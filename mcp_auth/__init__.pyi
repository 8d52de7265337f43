from mcp_auth.changes import (
    Change as Change,
)
from mcp_auth.config.load import (
    load as load,
)
from mcp_auth.config.models import (
    CallbackOptions as CallbackOptions,
    Config as Config,
    GatewayOptions as GatewayOptions,
    NetworkOptions as NetworkOptions,
    OAuthOptions as OAuthOptions,
    Server as Server,
    Settings as Settings,
    ToolFilter as ToolFilter,
)
from mcp_auth.core import (
    McpAuth as McpAuth,
)
from mcp_auth.errors import (
    AddressRefused as AddressRefused,
    AlreadyFinished as AlreadyFinished,
    AuthorizationRefused as AuthorizationRefused,
    Busy as Busy,
    CallbackRejected as CallbackRejected,
    ClientRegistrationNeeded as ClientRegistrationNeeded,
    CodeRejected as CodeRejected,
    ConfigError as ConfigError,
    CredentialsNeeded as CredentialsNeeded,
    DiscoveryFailed as DiscoveryFailed,
    IssuerMismatch as IssuerMismatch,
    KeyInvalid as KeyInvalid,
    KeyMissing as KeyMissing,
    KeyRefused as KeyRefused,
    McpAuthError as McpAuthError,
    MixedEndpoints as MixedEndpoints,
    NoMetadata as NoMetadata,
    NotAllowed as NotAllowed,
    NotConfirmedYet as NotConfirmedYet,
    NotProven as NotProven,
    OtherBrowser as OtherBrowser,
    PkceNotSupported as PkceNotSupported,
    PortBusy as PortBusy,
    ReauthorizationNeeded as ReauthorizationNeeded,
    RecordDamaged as RecordDamaged,
    RefreshUnavailable as RefreshUnavailable,
    RegistrationRefused as RegistrationRefused,
    ResourceMismatch as ResourceMismatch,
    ServerRefused as ServerRefused,
    SignInError as SignInError,
    SignInExpired as SignInExpired,
    SignInNeeded as SignInNeeded,
    StoreError as StoreError,
    TokenRequestFailed as TokenRequestFailed,
    TooManyOpenFiles as TooManyOpenFiles,
    UnknownServer as UnknownServer,
    UnknownSignIn as UnknownSignIn,
    Unreachable as Unreachable,
    WritableByOthers as WritableByOthers,
    WrongCode as WrongCode,
    WrongIssuer as WrongIssuer,
    WrongPerson as WrongPerson,
)
from mcp_auth.keys import (
    KeyTrial as KeyTrial,
    KeyVariable as KeyVariable,
    Verdict as Verdict,
)
from mcp_auth.oauth.revocation import (
    LogoutResult as LogoutResult,
)
from mcp_auth.oauth.sign_in import (
    StartedSignIn as StartedSignIn,
)
from mcp_auth.outcome import (
    Next as Next,
)
from mcp_auth.outcome import (
    Outcome as Outcome,
)
from mcp_auth.records import (
    ChangeKind as ChangeKind,
    Grant as Grant,
    KeyForm as KeyForm,
    Requester as Requester,
    SHARED as SHARED,
    SignIn as SignIn,
)
from mcp_auth.status import (
    AuthState as AuthState,
    ConnectionState as ConnectionState,
    ConnectionStatus as ConnectionStatus,
    ServerStatus as ServerStatus,
)
from mcp_auth.stores.base import (
    Store as Store,
)
from mcp_auth.stores.memory import (
    MemoryStore as MemoryStore,
)
from mcp_auth.web.key_forms import (
    StartedKeyForm as StartedKeyForm,
)
