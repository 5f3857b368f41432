"""What every service stands on: contracts, storage, events, calls, rights, and how to run and observe them."""
