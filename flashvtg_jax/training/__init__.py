"""Training: state, the pure step, meshes, checkpoints and the loop."""
