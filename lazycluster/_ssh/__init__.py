"""Drive the system's ssh and scp; this package knows no frame, no task and no pickle."""
