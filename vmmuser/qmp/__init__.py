"""QMP: the monitor's protocol, its commands and events, and the server that speaks it."""
