"""Platform devices, one a file; none knows its address, its board or another device."""
