from adapters.testing.contract import (
    AdapterContract as AdapterContract,
)
from adapters.testing.harness import (
    ANN as ANN,
    BOB as BOB,
    EVE as EVE,
    Harness as Harness,
    SeenButton as SeenButton,
    SeenMessage as SeenMessage,
)
from adapters.testing.ports import (
    free_port as free_port,
)
from adapters.testing.scenarios import (
    unreadable_address as unreadable_address,
)
from adapters.testing.world import (
    WAIT as WAIT,
    World as World,
)
