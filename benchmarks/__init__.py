"""What costs time and memory, measured; each prints one line of JSON."""
