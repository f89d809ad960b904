"""What all configurations share: the authors' settings, of which each data set changes a few.

A `FieldReference` that is not required, such as a `placeholder`, may be None.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import FieldReference, placeholder

from flashvtg_jax.errors import ConfigError


def refuse_argument(name: str, argument: str | None) -> None:
    """Raise ConfigError if a configuration that takes no argument was given one."""
    if argument is not None:
        raise ConfigError(f'{name}: takes no argument, but ":{argument}" was given')


def get_common() -> ConfigDict:
    """All fields, with the values of most data sets; those in `data` are for QVHighlights."""
    config = ConfigDict()
    config.name = "common"  # of the experiment, for logs and errors
    config.seed = 2024  # of initial parameters, shuffling, random labels and dropout
    config.seeds = ()  # a run for each of several seeds, with mean and standard deviation
    # Length of a clip in seconds. `data` and `loss` share this value.
    config.clip_length = FieldReference(2.0, required=True)
    # S, tokens of a clip: 1, or one for each region of its frames, which are pooled by attention to
    # the query. `data` and `model` share this value.
    config.spatial_tokens = FieldReference(1, required=True)

    model = config.model = ConfigDict()
    model.hidden_dim = 256  # D, the width of every token
    model.num_heads = 8  # attention heads
    model.ffn_dim = 1024  # hidden width of the feed-forward blocks
    model.n_input_proj = 2  # blocks that project the features of each modality to D
    model.t2v_layers = 6  # layers of adaptive cross attention, from clips to words
    model.enc_layers = 3  # self-attention layers of the clip encoder
    model.dummy_layers = 2  # layers of the encoder of dummy tokens
    # Dummy tokens, which clips can attend to instead of words. With 0 their attention to words
    # cannot be learned, so that loss.lw_wattn has to be 0.
    model.num_dummies = 40
    model.strides = (1.0, 2.0, 4.0, 8.0)  # of the pyramid's levels, in clips; powers of 2, also 0.5
    model.kernel_size = 5  # of the convolutions of the score heads; odd
    model.num_conv_layers = 1  # convolutions of each score head
    model.num_mlp_layers = 5  # dense layers of each score head
    # How scores within levels and across them are combined: "learned" weights, "fixed" ones (half
    # and half), or "intra" or "inter" scores alone.
    model.score_refinement = "learned"
    # What proposes moments: "pyramid", the points of temporal feature layering, or "queries", a
    # DETR-style decoder: learned moment queries over a single scale. They do not use strides, the
    # score heads and the losses of points (lw_cls, lw_reg, label_loss_coef).
    model.moment_head = "pyramid"
    model.num_moment_queries = 10  # moment queries of moment_head="queries"
    model.decoder_layers = 2  # layers of their decoder
    model.spatial_tokens = config.get_ref("spatial_tokens")  # config.spatial_tokens
    model.input_dropout = 0.5  # on the features, in each block of the input projections
    model.dropout = 0.1  # on attention weights and in feed-forward blocks
    model.drop_path = 0.1  # stochastic depth: rate of skipping a residual branch, per sample
    model.dummy_dropout = 0.1  # as dropout, in the encoder of dummy tokens
    model.dummy_drop_path = 0.1  # as drop_path, in the encoder of dummy tokens
    model.dtype = "float32"  # of the computation, or "bfloat16"; parameters stay float32
    # Clips on either side that a clip attends to in each layer of the clip encoder, so that memory
    # grows linearly with the clips; None: all. A window that covers the video changes nothing.
    model.attention_window = placeholder(int)
    # What computes that attention: "xla" or "cudnn". cuDNN needs bfloat16 and no window; used on
    # NVIDIA GPUs from Ampere on while no weights are dropped (dropout 0, or not in training).
    model.attention_kernel = "xla"

    loss = config.loss = ConfigDict()
    loss.lw_cls = 5.0  # weight of the classification of points
    loss.lw_reg = 1.0  # weight of the regression of boundaries
    loss.lw_sal = 0.1  # weight of the alignment of clips with their query
    loss.lw_saliency = 0.8  # weight of the saliency losses
    loss.lw_wattn = 1.0  # within them, weight of those on the query attention
    loss.label_loss_coef = 4.0  # weight of the clip-aware score loss; 0: off
    loss.clip_length = config.get_ref("clip_length")  # seconds; config.clip_length
    loss.sample_radius = 1.5  # strides around a window's centre within which points are positive
    # Whether a moment that is assigned no point gets the nearest free one; otherwise it is not
    # learned.
    loss.nearest_point = False
    loss.saliency_margin = 0.2  # by which a positive clip should score above a negative one
    loss.temperature = 0.07  # of the alignment
    loss.rank_temperature = 0.5  # of the rank contrastive loss
    loss.focal_gamma = 2.0  # of the focal loss: how much easy points are down-weighted
    loss.classification = "focal"  # or "binary_cross_entropy" against the saliency labels
    loss.regression = True  # whether boundaries are learned; not in highlight detection
    loss.alignment_directions = ("row", "column")  # over clips of a video; over queries
    # Weight of the loss on scores for another sample's query; with 0 the ranking still uses them.
    loss.negative_pair_weight = 1.0
    loss.negative_pairs = True  # whether videos are scored for another query at all
    # Of model.moment_head="queries", instead of lw_cls and lw_reg, in the loss and in matching
    # queries with moments; the weights of Moment-DETR.
    loss.match_class_weight = 4.0  # weight of the class, moment or background
    loss.match_span_weight = 10.0  # weight of the distance (L1) of centre and width
    loss.match_giou_weight = 1.0  # weight of the generalised IoU
    loss.background_weight = 0.1  # in the class loss, of unmatched queries

    data = config.data = ConfigDict()
    data.dataset = "qvhighlights/slowfast_clip"  # TFDS name: builder/config
    data.data_dir = FieldReference("data")  # built data sets; None: in the work directory
    data.manual_dir = placeholder(str)  # released files to build the data set from; None: do not
    # When building: cut moments at the ends of their video, instead of stopping.
    data.clip_windows = False
    data.train_split = "train"  # split to train on
    data.val_split = "val"  # split to select the best checkpoint on
    data.domains = ()  # domains of the data set, each with its own model; (): not divided
    data.video_streams = ("slowfast", "clip")  # features of a clip, in the order of concatenation
    data.video_widths = ConfigDict()  # width of each stream, checked when the data set is opened
    data.video_widths.slowfast = 2304  # SlowFast R50
    data.video_widths.clip = 512  # CLIP ViT-B/32
    data.query_width = 512  # width of a word's features: CLIP's text encoder
    data.normalize_query = True  # scale each word's features to norm 1
    data.clip_length = config.get_ref("clip_length")  # seconds; config.clip_length
    data.max_clips = FieldReference(75)  # longer videos are cut; None: no limit
    data.max_words = 40  # longer queries are cut
    # Lengths in clips that videos are padded to, ascending; None: chosen for each split.
    data.buckets = FieldReference((75,))
    # What saliency labels are made from: "qvhighlights": three annotators' ratings, "windows": the
    # moments, "ratings": a rating from 1 to 5 by each annotator, "binary": highlight or not.
    data.labels = "qvhighlights"
    # Length in seconds of the clips of relevant_clip_ids and saliency_scores; None: as the data set
    # was built, or config.clip_length.
    data.label_clip_length = placeholder(float)
    # Every video has the same number of features, whatever its duration: interpolate at its clips.
    data.resample = False
    data.source_video = "youtube_id"  # what excerpts of one source video share; or "vid"
    data.num_threads = 4  # threads that read examples
    data.prefetch = 4  # batches prepared in advance
    data.spatial_tokens = config.get_ref("spatial_tokens")  # config.spatial_tokens
    # A perturbation of the training videos: "noise", "dropped_clips", "repeated_clips",
    # "frame_rate", "shuffled_blocks" or "missing_stream"; None: as they are.
    data.augment = placeholder(str)
    data.augment_strength = 0.5  # maximum; each video draws its own from 0 up to it
    data.cache = False  # keep all that was read in host memory
    # Keep the features on the device and gather batches there; None: if they fit in a quarter of
    # the free memory and there is one process. Results are the same up to rounding.
    data.cache_on_device = placeholder(bool)

    optimizer = config.optimizer = ConfigDict()
    optimizer.learning_rate = 5e-4  # of AdamW
    optimizer.weight_decay = 1e-4  # of AdamW, on all parameters
    optimizer.gradient_clip_norm = 0.1  # global norm that gradients are clipped to
    # Epochs after which the learning rate is halved, each time; None: never.
    optimizer.lr_drop = placeholder(int)

    train = config.train = ConfigDict()
    # Work directory of another run, or what `flashvtg convert` wrote, whose best parameters are the
    # initial ones; None: random ones. Read only before the first step.
    train.init_from = placeholder(str)
    # With init_from: take the parameters of the same name and shape, leave the others at random
    # values and report them; False: refuse a model whose parameters differ.
    train.init_partial = False
    train.batch_size = 64  # queries in a step, over all devices
    train.epochs = 150  # passes over the training split
    train.drop_last = False  # leave out the last batch of an epoch if it is not full
    # Steps that one call runs when the data are on the device (data.cache_on_device); a signal to
    # stop waits for them. None: as many as take a quarter of a second; 1 on CPU and with several
    # processes.
    train.steps_per_dispatch = placeholder(int)
    train.log_every_steps = 20  # steps between lines of the log
    train.evaluate_every_epochs = 1  # epochs between evaluations
    train.evaluate_untrained = False  # also evaluate before the first step, for comparison
    train.checkpoint_every_epochs = 1  # epochs between checkpoints to resume from
    train.keep_checkpoints = 2  # latest checkpoints to keep, besides the best one
    # Evaluations in a row without improvement after which training ends; None: never.
    train.early_stopping_evaluations = placeholder(int)
    # Metrics whose mean selects the best checkpoint; without NMS.
    train.selection_metrics = ("MR-full-mAP",)
    # What happens when the loss or gradient of a step is not finite: "stop" ends the run, "skip"
    # leaves the parameters unchanged. Either way the first such batch is saved.
    train.on_nan = "stop"

    parallel = config.parallel = ConfigDict()
    # "jit": one program over all devices, with losses over the whole batch, so that any number of
    # devices computes what one does. "pmap": each device computes the losses of its own rows, and
    # gradients are averaged over devices, also those that have only padding rows: see drop_last.
    parallel.mode = "jit"
    # Shard parameters and optimizer state over the devices, for models that are too large for one
    # device; results are the same.
    parallel.shard_state = False

    evaluation = config.evaluation = ConfigDict()
    evaluation.batch_size = 64  # queries in a batch, over all devices
    evaluation.max_moments = 50  # moments kept for a query
    evaluation.nms_threshold = 0.7  # IoU with a better moment from which one is suppressed
    evaluation.nms_type = "normal"  # suppressed moments score 0; "linear": less, by overlap
    # Seconds that moments are limited to; None: no limits.
    evaluation.window_range = FieldReference((0.0, 150.0))
    evaluation.round_to_clip_length = True  # moments begin and end where clips do
    # Lengths of moments with metrics of their own, "NAME:ABOVE:UP_TO" in seconds, UP_TO may be inf;
    # "short" gives MR-short-mAP. Studies use these three, the official ones.
    evaluation.length_ranges = ("short:0:10", "middle:10:30", "long:30:150")
    return config


def get_highlights() -> ConfigDict:
    """What TVSum and YouTube Highlights share: one scale, no moments, small domains."""
    config = get_common()
    config.model.t2v_layers = 2  # layers of adaptive cross attention
    config.model.strides = (1.0,)  # one level: the clips themselves
    config.model.num_mlp_layers = 3  # dense layers of each score head

    config.loss.lw_reg = 0.2  # weight of the regression; without effect, it is off
    config.loss.classification = "binary_cross_entropy"  # of clips, against their labels
    config.loss.regression = False  # there are no boundaries to learn
    config.loss.alignment_directions = ("row",)  # clips of a video

    config.data.normalize_query = False  # word features are used as they are
    config.data.max_clips = 1000  # longer videos are cut
    config.data.max_words = 100  # longer queries are cut
    config.data.buckets = None  # lengths chosen by the split, all domains together
    config.data.source_video = "vid"  # what excerpts of one source video share

    config.train.batch_size = 4  # videos in a step
    config.train.selection_metrics = ("HD-mAP",)  # selects the best checkpoint
    config.evaluation.window_range = None  # there are no moments
    return config


def choose_domains(name: str, known: tuple[str, ...], argument: str | None) -> tuple[str, ...]:
    """The domain that the argument names, or all. Raises ConfigError for an unknown one."""
    if argument is None:
        return known
    if argument not in known:
        raise ConfigError(f"{name}: no domain {argument!r}; there are {', '.join(known)}")
    return (argument,)
