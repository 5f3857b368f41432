"""Read first by every Python process that has this folder on its path: its databases are those of this run."""

from bench.databases import redirect

redirect()
