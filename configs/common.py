"""What all configurations share: the authors' settings, of which each data set changes a few."""

from ml_collections import ConfigDict
from ml_collections.config_dict import FieldReference

from flashvtg_jax.errors import ConfigError


def optional(kind: type, value: object = None) -> FieldReference:
    """A field of type `kind` that may also be None."""
    return FieldReference(value, field_type=kind)


def refuse_argument(name: str, argument: str | None) -> None:
    """Raise ConfigError if a configuration without variants was given an argument."""
    if argument is not None:
        raise ConfigError(f'{name}: takes no argument, but ":{argument}" was given')


def get_common() -> ConfigDict:
    """All fields, with what most data sets use; those of the data are QVHighlights' ones."""
    config = ConfigDict()
    config.name = "common"  # of the experiment; logs and errors say it
    config.seed = 2024  # of the parameters, the shuffling, the random labels and the dropout
    config.seeds = ()  # several seeds: a run of each, then their mean and standard deviation
    # Seconds a clip lasts. The data and the loss share this value under their own names.
    config.clip_length = FieldReference(2.0, required=True)
    # Tokens that the features of a clip are made of, S: 1, or places in its frames, of which each
    # query makes one by attention. The data and the model share it.
    config.spatial_tokens = FieldReference(1, required=True)

    model = config.model = ConfigDict()
    model.hidden_dim = 256  # D, the width of every token
    model.num_heads = 8  # attention heads
    model.ffn_dim = 1024  # hidden width of the feed-forward blocks
    model.n_input_proj = 2  # blocks that project the features of each modality to D
    model.t2v_layers = 6  # layers of adaptive cross attention, from clips to words
    model.enc_layers = 3  # self-attention layers of the clip encoder
    model.dummy_layers = 2  # layers of the encoder of dummy tokens
    # Dummy tokens, which clips attend to instead of words; 0, which leaves nothing to learn of how
    # much they attend to words, goes with loss.lw_wattn=0.
    model.num_dummies = 40
    model.strides = (1.0, 2.0, 4.0, 8.0)  # of the pyramid's levels, in clips; powers of 2, also 0.5
    model.kernel_size = 5  # of the convolutions of the score heads; odd
    model.num_conv_layers = 1  # convolutions of each score head
    model.num_mlp_layers = 5  # dense layers of each score head
    # Scores within levels and across them: "learned" or "fixed" (half and half) mix of the two, or
    # "intra" or "inter" alone.
    model.score_refinement = "learned"
    # What proposes moments: "pyramid", the points of temporal feature layering, or "queries", a
    # DETR-style decoder: learned moment queries over a single scale. Those have no use for strides,
    # score heads, and the losses of points: lw_cls, lw_reg, label_loss_coef.
    model.moment_head = "pyramid"
    model.num_moment_queries = 10  # moments that the queries of moment_head="queries" propose
    model.decoder_layers = 2  # of their decoder
    model.spatial_tokens = config.get_ref("spatial_tokens")  # config.spatial_tokens
    model.input_dropout = 0.5  # on the features, in each block of the input projections
    model.dropout = 0.1  # on attention weights and in feed-forward blocks
    model.drop_path = 0.1  # stochastic depth: how often a residual branch is left out of a sample
    model.dummy_dropout = 0.1  # as dropout, in the encoder of dummy tokens
    model.dummy_drop_path = 0.1  # as drop_path, in the encoder of dummy tokens
    model.dtype = "float32"  # of the computation, or "bfloat16"; parameters stay float32
    # Clips to either side that a clip attends to in each layer of the clip encoder, so that memory
    # grows with the clips and not with their square; None: all. One that covers a video is exact.
    model.attention_window = optional(int)
    # What computes that attention: "xla", or "cudnn": in bfloat16, without a window, on NVIDIA GPUs
    # from Ampere on where no weights are dropped (dropout 0, or not in training); elsewhere as xla.
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
    # Whether a moment that no point stands for gets the nearest one that no other moment has; else
    # it is not learned.
    loss.nearest_point = False
    loss.saliency_margin = 0.2  # by which a positive clip is to outscore a negative one
    loss.temperature = 0.07  # of the alignment
    loss.rank_temperature = 0.5  # of the rank contrastive loss
    loss.focal_gamma = 2.0  # of the focal loss: how much easy points are discounted
    loss.classification = "focal"  # or "binary_cross_entropy" against the saliency labels
    loss.regression = True  # whether boundaries are learned; not in highlight detection
    loss.alignment_directions = ("row", "column")  # clips of a video; queries of the batch
    # Weight of the scores against another sample's query; 0 still ranks against them.
    loss.negative_pair_weight = 1.0
    loss.negative_pairs = True  # whether videos are scored against another query at all
    # With model.moment_head="queries", in place of lw_cls and lw_reg, and in matching queries with
    # moments as well; Moment-DETR's weights.
    loss.match_class_weight = 4.0  # weight of the class: moment or background
    loss.match_span_weight = 10.0  # weight of the distance (L1) of centre and width
    loss.match_giou_weight = 1.0  # weight of the generalised IoU
    loss.background_weight = 0.1  # in the class loss, of queries that are matched with no moment

    data = config.data = ConfigDict()
    data.dataset = "qvhighlights/slowfast_clip"  # TFDS name: builder/config
    data.data_dir = optional(str, "data")  # where built data sets are; None: in the work directory
    data.manual_dir = optional(str)  # where the released files are, to build from; None: do not
    # In building from them: cut moments that reach out of their video, instead of stopping.
    data.clip_windows = False
    data.train_split = "train"  # split to learn from
    data.val_split = "val"  # split to select the best checkpoint on
    data.domains = ()  # parts of the data set, each with a model of its own; (): not divided
    data.video_streams = ("slowfast", "clip")  # features of a clip, in the order of concatenation
    data.video_widths = ConfigDict()  # width of each stream, checked when the data set is opened
    data.video_widths.slowfast = 2304  # SlowFast R50
    data.video_widths.clip = 512  # CLIP ViT-B/32
    data.query_width = 512  # width of a word's features: CLIP's text encoder
    data.normalize_query = True  # scale each word's features to norm 1
    data.clip_length = config.get_ref("clip_length")  # seconds; config.clip_length
    data.max_clips = optional(int, 75)  # longer videos are cut; None: no limit
    data.max_words = 40  # longer queries are cut
    # Lengths that videos are padded to, ascending, the last for the longest; None: chosen by split.
    data.buckets = optional(tuple, (75,))
    # What saliency labels are made from: "qvhighlights": three annotators' ratings, "windows": the
    # moments, "ratings": one from 1 to 5 of each annotator, "binary": highlight or not.
    data.labels = "qvhighlights"
    # Seconds of the clips that relevant_clip_ids and saliency_scores count; None: as the data set
    # says it was built, else config.clip_length.
    data.label_clip_length = optional(float)
    # Features are a fixed number a video, whatever its duration: interpolate them at its clips.
    data.resample = False
    data.source_video = "youtube_id"  # what one source video's clips share; or "vid"
    data.num_threads = 4  # that read examples
    data.prefetch = 4  # batches made ready ahead
    data.spatial_tokens = config.get_ref("spatial_tokens")  # config.spatial_tokens
    # A perturbation of the training videos: "noise", "dropped_clips", "repeated_clips",
    # "frame_rate", "shuffled_blocks" or "missing_stream"; None: as they are.
    data.augment = optional(str)
    data.augment_strength = 0.5  # the strongest; each video draws its own from 0 up to it
    data.cache = False  # keep in host memory all that was read once
    # Keep the features on the device and gather batches there; None: if they fit in a quarter of
    # the memory that is free, and there is one process. The numbers are the same, to rounding.
    data.cache_on_device = optional(bool)

    optimizer = config.optimizer = ConfigDict()
    optimizer.learning_rate = 5e-4  # of AdamW
    optimizer.weight_decay = 1e-4  # of AdamW, on all parameters
    optimizer.gradient_clip_norm = 0.1  # global norm to which longer gradients are scaled
    # Epochs after which the rate is halved, each time; None: never.
    optimizer.lr_drop = optional(int)

    train = config.train = ConfigDict()
    # Work directory of another run, or what `flashvtg convert` wrote, with whose best parameters
    # this run begins; None: random ones. Read before the first step, and never again.
    train.init_from = optional(str)
    # With init_from: take the parameters of the same name and shape, leave the others at their
    # initial values, and say which; False: refuse a model whose parameters differ.
    train.init_partial = False
    train.batch_size = 64  # queries in a step, over all devices
    train.epochs = 150  # passes over the training split
    train.drop_last = False  # leave out an epoch's last batch if it is not full
    # Steps that a device does in a row while its data are there (data.cache_on_device); signals
    # are heard between. None: as many as take a quarter of a second; on CPU and of several
    # processes, 1.
    train.steps_per_dispatch = optional(int)
    train.log_every_steps = 20  # steps between lines of the log
    train.evaluate_every_epochs = 1  # epochs between evaluations
    train.evaluate_untrained = False  # also evaluate before the first step, to compare with
    train.checkpoint_every_epochs = 1  # epochs between checkpoints to resume from
    train.keep_checkpoints = 2  # latest ones kept; the best one is kept besides
    # Evaluations without a better one after which training ends; None: it goes on.
    train.early_stopping_evaluations = optional(int)
    # Scores whose mean makes a checkpoint the best; without NMS.
    train.selection_metrics = ("MR-full-mAP",)

    # What becomes of a step whose loss or gradient is not finite: "stop" ends the run, "skip" goes
    # on with the parameters as they were. Either way the first such batch is saved.
    train.on_nan = "stop"

    parallel = config.parallel = ConfigDict()
    # "jit": one program over all devices, whose losses look across the whole batch: any number of
    # devices computes what one does. "pmap": each device has the losses of its own rows, and
    # gradients are averaged, those of devices that have only padding rows too: see drop_last.
    parallel.mode = "jit"
    # Split parameters and the optimiser's moments over the devices, for models that are too large
    # for one of them; the numbers are the same.
    parallel.shard_state = False

    evaluation = config.evaluation = ConfigDict()
    evaluation.batch_size = 64  # queries in a batch, over all devices
    evaluation.max_moments = 50  # moments kept for a query
    evaluation.nms_threshold = 0.7  # intersection over union from which a moment is suppressed
    evaluation.nms_type = "normal"  # suppressed moments score 0; or "linear": less, by the overlap
    evaluation.window_range = optional(tuple, (0.0, 150.0))  # seconds, of moments; None: no limits
    evaluation.round_to_clip_length = True  # moments begin and end where clips do
    # Moments that have metrics of their own, by their seconds: "NAME:ABOVE:UP_TO", and "inf". Each
    # names metrics, MR-short-mAP. Studies keep to these three, the official ones.
    evaluation.length_ranges = ("short:0:10", "middle:10:30", "long:30:150")
    return config


def get_highlights() -> ConfigDict:
    """What TVSum and YouTube Highlights share: one scale, clips scored alone, small domains."""
    config = get_common()
    config.model.t2v_layers = 2  # layers of adaptive cross attention
    config.model.strides = (1.0,)  # one level: the clips themselves
    config.model.num_mlp_layers = 3  # dense layers of each score head

    config.loss.lw_reg = 0.2  # weight of the regression, which is off
    config.loss.classification = "binary_cross_entropy"  # of clips, against their labels
    config.loss.regression = False  # there are no boundaries to learn
    config.loss.alignment_directions = ("row",)  # clips of a video

    config.data.normalize_query = False  # word features are used as they are
    config.data.max_clips = 1000  # longer videos are cut
    config.data.max_words = 100  # longer queries are cut
    config.data.buckets = None  # lengths chosen by the split, all domains together
    config.data.source_video = "vid"  # what one source video's clips share

    config.train.batch_size = 4  # videos in a step
    config.train.selection_metrics = ("HD-mAP",)  # makes a checkpoint the best

    config.evaluation.window_range = None  # there are no moments
    return config


def choose_domains(name: str, known: tuple[str, ...], argument: str | None) -> tuple[str, ...]:
    """The domain that a configuration's argument names, or all. Raises ConfigError for others."""
    if argument is None:
        return known
    if argument not in known:
        raise ConfigError(f"{name}: no domain {argument!r}; there are {', '.join(known)}")
    return (argument,)
