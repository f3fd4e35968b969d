"""What shows or records a run while it goes on."""
