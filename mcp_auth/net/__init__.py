"""What goes out: the guarded client, the rules for addresses, names, bodies, and which URLs are the same."""
