"""What can be asked about customers and their timeline."""
