"""Turn a call into bytes and back; this package uses no network and starts no process."""
