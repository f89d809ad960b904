"""QVHighlights: 10,000 videos with moments and highlights for natural-language queries."""
