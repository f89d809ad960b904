"""Figures: a query's moments and saliency, the curves of a training run, studies."""
