"""What happens around the steps of a run: each hook in a file of its own."""
