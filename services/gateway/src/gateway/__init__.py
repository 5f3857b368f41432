"""The gateway: one HTTP/JSON door for every channel, derived from the contracts."""
