"""The analytics service: facts built from events alone, each counted once."""
