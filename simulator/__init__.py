"""A believable operator for demonstrations and tests: its customers, its channels, and what is true of them."""
