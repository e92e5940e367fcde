"""What claude_pipeline costs, beside the documentation's loop, a hand-written floor and its peers."""
