"""The endpoint: its pages and forms, what guards it, and the listeners on loopback."""
