"""What every command line shares: exit status, host name, peak memory."""
