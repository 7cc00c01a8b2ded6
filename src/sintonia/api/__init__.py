"""OpenAI's wire over HTTP. No SQL and no torch here; routes parse, call and translate."""
