"""Training by a call, for notebooks and scripts: no flow, no tracking server, no file."""
