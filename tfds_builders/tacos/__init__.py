"""TACoS: moments for sentences in long videos of cooking."""
