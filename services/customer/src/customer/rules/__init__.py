"""Rules of the customer service: pure functions of their arguments."""
