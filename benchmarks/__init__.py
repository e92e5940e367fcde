"""Measure claude_pipeline beside the loop of Anthropic's batch documentation."""
