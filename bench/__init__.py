"""What things cost, measured beside a yardstick in the same run."""
