"""The networks, their losses and checkpoints."""
