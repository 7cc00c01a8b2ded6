"""The wire types: OpenAI's names, as they are sent. Only ``api`` knows them."""
