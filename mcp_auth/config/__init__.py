"""The configuration: its models, reading and checking it, variables and `.env`."""
