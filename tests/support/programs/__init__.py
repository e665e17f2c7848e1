"""Programs that tests start as processes of their own; tests import them for their names only."""
