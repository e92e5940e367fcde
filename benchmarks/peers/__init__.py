"""The peers, each used as its own documentation says.

Each script runs by its path, in its peer's environment, and knows nothing else of ours. Its arguments: INPUT OUTPUT
FOLDER. The SDK's own variables, ANTHROPIC_BASE_URL and ANTHROPIC_API_KEY, say whom it asks.
"""
