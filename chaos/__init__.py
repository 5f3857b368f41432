"""Breaks the running platform on purpose and checks from what clients saw that it kept its promises."""
