"""What is forced before a conversation: prompts, voices, roles."""
