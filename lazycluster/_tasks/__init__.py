"""Execute a task once: its steps, its log and its outcome."""
