"""What is done with state beside batches: swept, looked at, verified, carried to another stream."""
