"""What nobody would send, sent for minutes: `make fuzz` asks gateways and parsers for anything but a refusal."""
