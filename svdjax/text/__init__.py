"""What models read: chat templates, prompts, tokenizers, held-out text, and its likelihood."""
