"""The terminal as a chat: replies as plain text, and what is known of the screen."""
