"""The servers that trainings are scheduled on and looked at with, on this machine's loopback."""
