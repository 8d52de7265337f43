"""WhatsApp, through Meta's Cloud API and pywa."""

from __future__ import annotations

from adapters.whatsapp.adapter import WhatsAppAdapter
from adapters.whatsapp.options import WhatsAppOptions

__all__ = ["WhatsAppAdapter", "WhatsAppOptions"]
