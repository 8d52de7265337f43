from adapters.base import (
    Adapter as Adapter,
    Finding as Finding,
)
from adapters.driver import (
    remark as remark,
)
from adapters.layout import (
    Layout as Layout,
    Line as Line,
    Span as Span,
    fit as fit,
    lay_out as lay_out,
)
from adapters.log_filters import (
    hide_payloads as hide_payloads,
    mask_tokens as mask_tokens,
)
from adapters.refusals import (
    EditWindowClosed as EditWindowClosed,
    Elsewhere as Elsewhere,
    Later as Later,
    Misconfigured as Misconfigured,
    NotSupported as NotSupported,
    PrivateDeliveryUnavailable as PrivateDeliveryUnavailable,
    Refused as Refused,
    TooLong as TooLong,
)
from adapters.symbols import (
    BAD as BAD,
    GOOD as GOOD,
    WARN as WARN,
)

__distribution__: str
