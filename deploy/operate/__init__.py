"""What an operator does by hand: look at what waits, mend it, send it again; every change is audited."""
