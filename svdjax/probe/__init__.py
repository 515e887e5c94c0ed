"""What goes on inside models: attention entropy and CKA; command, stage, results, page."""
