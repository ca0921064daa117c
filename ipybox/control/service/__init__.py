"""What the control plane does. Floor: control."""
