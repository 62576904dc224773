"""Several vCPUs on one memory."""
