"""A split in memory, and a configuration that fits it."""

import threading
import types

import numpy as np
from ml_collections import ConfigDict

WIDTHS = {"slowfast": 6, "clip": 4}
QUERY_WIDTH = 5


class MemorySource:
    """A split in memory: `num_clips[i]` clips, the slowfast stream one longer in every other row.

    Remembers which rows were read, and by which threads.
    """

    def __init__(self, num_clips, seed=0, with_targets=True):
        rng = np.random.default_rng(seed)
        self.num_clips = np.asarray(num_clips)
        self.all_num_clips = self.num_clips
        self.all_domains = None
        self.rows = np.arange(len(num_clips))
        self.name = "memory/train"
        self.num_words = rng.integers(1, 9, len(num_clips))
        self.all_num_words = self.num_words
        self.stream_clips = self.all_stream_clips = {}
        self.num_windows = rng.integers(1, 4, len(num_clips)) * with_targets
        self.streams = dict(WIDTHS)
        self.tokens = {}
        self.resampled = False
        self.query_dim = QUERY_WIDTH
        self.clip_length = 2.0
        self.labels = "qvhighlights"
        self.examples = []
        self.reads = []
        self.threads = set()
        for i, clips in enumerate(self.num_clips.tolist()):
            annotation = {"qid": i, "vid": f"video{i // 3}_{i}.0_{i + 2 * clips}.0"}
            annotation["duration"] = 2 * clips
            if with_targets:
                relevant = sorted(rng.choice(clips, max(1, clips // 2), replace=False).tolist())
                annotation["relevant_clip_ids"] = relevant
                ratings = rng.integers(0, 5, (len(relevant), 3))
                annotation["saliency_scores"] = ratings.tolist()
                windows = np.sort(rng.uniform(0, 2 * clips, (self.num_windows[i], 2)), axis=1)
                annotation["relevant_windows"] = windows.tolist()
            extra = {"slowfast": i % 2, "clip": 0}
            streams = {
                name: (10 * rng.standard_normal((clips + extra[name], width))).astype(np.float16)
                for name, width in WIDTHS.items()
            }
            query = rng.standard_normal((self.num_words[i], QUERY_WIDTH)).astype(np.float16)
            self.examples.append(
                types.SimpleNamespace(annotation=annotation, streams=streams, query=query)
            )

    def rebuild_command(self):
        return "flashvtg build"

    def __len__(self):
        return len(self.examples)

    def __getitem__(self, index):
        self.reads.append(index)
        self.threads.add(threading.get_ident())
        return self.examples[index]

    def video(self, index):
        return self[index].streams

    def query(self, index):
        return self[index].query

    def select(self, domains):
        return self  # there are none

    def forget(self):
        pass  # it keeps nothing else

    def annotations(self):
        return [example.annotation for example in self.examples]


def small_source(num_examples=21, **kwargs):
    return MemorySource(np.random.default_rng(9).integers(1, 13, num_examples), **kwargs)


def small_config(**changes):
    config = ConfigDict(
        {
            "seed": 11,
            "clip_length": 2.0,
            "data": {
                "dataset": "qvhighlights/slowfast_clip",
                "train_split": "train",
                "max_clips": None,
                "max_words": 6,
                "normalize_query": True,
                "video_streams": ("slowfast", "clip"),
                "video_widths": dict(WIDTHS),
                "query_width": QUERY_WIDTH,
                "spatial_tokens": 1,
                "buckets": (5, 12),
                "labels": "qvhighlights",
                "label_clip_length": None,
                "source_video": "youtube_id",
                "resample": False,
                "num_threads": 2,
                "prefetch": 3,
                "cache_on_device": None,
            },
            "train": {"batch_size": 4, "epochs": 3, "drop_last": False},
            "evaluation": {"batch_size": 8},
        }
    )
    config.update_from_flattened_dict(changes)
    return config
