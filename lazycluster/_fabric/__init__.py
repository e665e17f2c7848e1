"""Read what fabric and paramiko call things, and make it Connections; fabric is never imported."""
