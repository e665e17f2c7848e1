"""Exchange requests and frames over one ssh session; this package knows no step and no pickle."""
