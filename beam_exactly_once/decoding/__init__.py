"""Values of records as columns: each exactly as it was written, or refused."""
