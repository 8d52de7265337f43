from gateway.gateway import (
    Gateway as Gateway,
)
from gateway.invocations import (
    Capabilities as Capabilities,
    ChatRef as ChatRef,
    Invocation as Invocation,
    LOCAL as LOCAL,
    MessageRef as MessageRef,
    Principal as Principal,
)
from gateway.replies import (
    Audience as Audience,
    Block as Block,
    Button as Button,
    Checklist as Checklist,
    ChecklistItem as ChecklistItem,
    Decision as Decision,
    Deferred as Deferred,
    Ignored as Ignored,
    Immediate as Immediate,
    ItemState as ItemState,
    Modal as Modal,
    Notice as Notice,
    Reply as Reply,
    SecretPrompt as SecretPrompt,
    ServerDetail as ServerDetail,
    ServerList as ServerList,
    Table as Table,
    Text as Text,
    TextModal as TextModal,
)
from gateway.serve import (
    Platform as Platform,
)

__distribution__: str
