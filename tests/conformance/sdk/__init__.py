"""Scripts that drive a server through one client library each, outside this process."""
