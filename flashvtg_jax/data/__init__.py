"""From annotation and feature files to batches."""

from flashvtg_jax.lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "Batch": "data.batch",
        "BatchPlan": "data.batch_plan",
        "BatchShape": "data.batch",
        "SplitSource": "data.source",
        "collate": "data.batch",
        "evaluation_batches": "data.pipeline",
        "evaluation_plan": "data.pipeline",
        "open_split": "data.source",
        "train_pipeline": "data.pipeline",
        "train_plan": "data.pipeline",
    },
)
