"""Links of ours: tickets, the bound browser, and the proof of who sits there."""
