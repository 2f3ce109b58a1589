"""The one decoder: bytes to uint8 pixels by one set of rules, and resizing."""
