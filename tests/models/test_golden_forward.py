"""The model gives the authors' numbers, alone and inside a padded batch."""

import functools

import jax
import numpy as np
import pytest

from flashvtg_jax.decoding import decode_moments
from tests import reference

CONFIGS = sorted({name.split(".")[0] for name in reference.golden_files("forward")})


@functools.cache
def outputs(config: str):
    """All golden samples of a configuration as one padded batch, and their files."""
    files = [n for n in reference.golden_files("forward") if n.startswith(f"{config}.")]
    cases = [reference.describe(name) for name in files]
    clips = max(case[2] for case in cases) + 13
    words = max(case[3] for case in cases) + 5
    batch = reference.pad_batch([reference.sample(*case) for case in cases], clips, words)
    model, params = reference.model_and_params(config)
    out = jax.jit(lambda params, *batch: model.apply({"params": params}, *batch))(params, *batch)
    moments = decode_moments(out, 1e6, reference.CLIP_LENGTH[config])
    out, moments = jax.device_get((out, moments))
    return files, cases, out, moments


@pytest.mark.parametrize("config", CONFIGS)
def test_padded_batch_equals_the_authors_unpadded_samples(config):
    files, cases, out, _ = outputs(config)
    for b, (name, (_, _, clips, _)) in enumerate(zip(files, cases, strict=True)):
        golden = reference.load(name)
        points = out.point_mask[b]
        np.testing.assert_allclose(out.memory[b, :clips], golden["video_memory"], atol=1e-4)
        np.testing.assert_allclose(out.query_embedding[b], golden["query_embedding"], atol=1e-4)
        for key in ("intra_scale_logits", "inter_scale_logits"):
            np.testing.assert_allclose(getattr(out, key)[b][points], golden[key], atol=1e-4)
        np.testing.assert_allclose(out.saliency[b, :clips], golden["saliency_scores"], atol=1e-4)
        attention = out.query_attention[b, :clips]
        np.testing.assert_allclose(attention, golden["attention_to_query"], atol=1e-4)
        weights = reference.state_dict(config)
        level = np.searchsorted(np.unique(out.points[:, 3]), out.points[points][:, 3])
        offsets = np.exp(golden["coord_raw"]) * weights["coef"][level][:, None]
        np.testing.assert_allclose(out.offsets[b][points], offsets, rtol=1e-4, atol=1e-4)
        mix = weights["x"]
        mixed = mix * golden["intra_scale_logits"] + (1 - mix) * golden["inter_scale_logits"]
        np.testing.assert_allclose(out.logits[b][points], mixed, atol=1e-4)


@pytest.mark.parametrize("config", CONFIGS)
def test_padded_positions_have_no_saliency_and_no_attention(config):
    _, cases, out, _ = outputs(config)
    for b, (_, _, clips, _) in enumerate(cases):
        assert not out.saliency[b, clips:].any()
        assert not out.query_attention[b, clips:].any()


@pytest.mark.parametrize("config", CONFIGS)
def test_moments_equal_the_authors(config):
    files, _, _, moments = outputs(config)
    for b, name in enumerate(files):
        expected = reference.load(name)["moments"]
        expected[:, :2] = np.maximum(expected[:, :2], 0)  # theirs are not clipped to the video yet
        np.testing.assert_allclose(moments[b, : len(expected)], expected, atol=1e-3)
        assert not moments[b, len(expected) :].any()


def test_pyramid_levels_and_dummy_tokens_equal_the_authors():
    name = "qvhighlights_slowfast_clip.forward.s3.l30.q7"
    config, *case = reference.describe(name)
    golden = reference.load(name)
    model, params = reference.model_and_params(config)
    batch = reference.pad_batch([reference.sample(config, *case)], 37, 9)

    def look(module, video, video_mask, query, query_mask):
        words, dummy_keys = module.project_query(query, query_mask)
        clips = module.project_video(video, video_mask)
        memory, _, _ = module.fuse(clips, video_mask, words, query_mask, dummy_keys)
        return dummy_keys, module.pyramid(memory)

    dummy_keys, levels = jax.jit(
        lambda params, *batch: model.apply({"params": params}, *batch, method=look)
    )(params, *batch)
    tokens = dummy_keys[0] - params["dummy_encoder"]["positions"]
    np.testing.assert_allclose(tokens, golden["dummy_tokens"], atol=1e-4)
    for k, level in enumerate(levels):
        expected = golden[f"pyramid_{k}"]
        np.testing.assert_allclose(level[0, : len(expected)], expected, atol=1e-4)
