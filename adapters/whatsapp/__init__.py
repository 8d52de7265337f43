"""WhatsApp, through Meta's Cloud API and pywa."""
