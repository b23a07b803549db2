"""Storage: database and migrations, keys, console sessions, request log, model catalogue."""
