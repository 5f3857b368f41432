"""What changes customers and their timeline."""
