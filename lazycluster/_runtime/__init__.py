"""What a Runtime is made of, in layers: host, calls without tasks, processes and ports."""
