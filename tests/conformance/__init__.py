"""The conformance suite: how far a server speaks OpenAI's API; see docs/conformance.md."""
