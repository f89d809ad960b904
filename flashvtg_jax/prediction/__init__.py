"""A trained model and features of any video: moments and highlights."""
