"""What each command does: a request in, one reply or several out. No platform, no markup, no text of its own."""
