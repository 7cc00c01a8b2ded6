"""Between the wire and the facts; the only place that knows both."""
