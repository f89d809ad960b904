"""The authors' PyTorch program in a process that the comparisons ask; needs nothing of ours.

It is imported from the user's checkout, and driven as its own train.py and inference.py drive it.
"""

import importlib
import json
import logging
import os
import platform
import sys
import time
import types
from pathlib import Path
from typing import Any

from sides import Requests, serve


class Theirs:
    """Their model, criterion, optimizer and data, and what is measured of them."""

    def start(
        self,
        options: list[str],
        device: str,
        threads: int,
        folder: str,
        weights: str | None = None,
    ) -> dict[str, Any]:
        """Imports their code from the current folder and builds what their train.py builds.

        Args:
          options: command line of their train.py.
          device: "cpu" or "gpu".
          threads: of PyTorch on the CPU.
          folder: for their logs.
          weights: .npz file of the parameters, by name; not needed for `run`.
        """
        sys.path[0] = os.getcwd()
        try:
            importlib.import_module("torchtext")
        except (ImportError, OSError):  # not there, or made for an older PyTorch
            # Imported by their data set, and used for GloVe alone, which is not compared.
            sys.modules["torchtext"] = types.ModuleType("torchtext")
            sys.modules["torchtext"].vocab = None
        self.torch = importlib.import_module("torch")
        self.torch.set_num_threads(threads)
        if device == "gpu" and not self.torch.cuda.is_available():
            raise RuntimeError("PyTorch has no cuda device here (torch.cuda.is_available())")
        self.train = importlib.import_module("FlashVTG.train")
        self.inference = importlib.import_module("FlashVTG.inference")
        self.data = importlib.import_module("FlashVTG.start_end_dataset")
        self.scorer = importlib.import_module("standalone_eval.eval")
        self.train.logger = logging.getLogger("train")  # theirs exists in the program alone
        self.opt = self._options(options, device, folder)
        self.train.set_seed(self.opt.seed, use_cuda=device == "gpu")
        self.model, self.criterion, self.optimizer, _ = self.inference.setup_model(self.opt)
        self._weights = weights
        self._datasets: dict[str, Any] = {}
        self._epoch = 0
        return self._about(device)

    def _options(self, arguments: list[str], device: str, folder: str) -> Any:
        """Their options as `BaseOptions.parse` completes them, without the copies it makes."""
        base = importlib.import_module("FlashVTG.config").BaseOptions()
        base.initialize()
        opt = base.parser.parse_args(arguments)
        opt.results_dir = folder
        opt.train_log_filepath = os.path.join(folder, base.train_log_filename)
        opt.tensorboard_log_dir = os.path.join(folder, base.tensorboard_log_dir)
        opt.train_log_txt_formatter = "{time_str} {epoch} {loss_str}\n"
        opt.device = self.torch.device("cuda:0" if device == "gpu" else "cpu")
        opt.pin_memory = not opt.no_pin_memory
        opt.use_tef, opt.use_video = "tef" in opt.ctx_mode, "video" in opt.ctx_mode
        opt.v_feat_dim += 2 * opt.use_tef
        opt.cfg = importlib.import_module("nncore").Config.from_file(opt.config)
        return opt

    def _about(self, device: str) -> dict[str, Any]:
        torch = self.torch
        return {
            "device": torch.cuda.get_device_name(0) if device == "gpu" else None,
            "python": platform.python_version(),
            "versions": {"torch": torch.__version__, "cuda": torch.version.cuda},
            "threads": torch.get_num_threads(),
            "float32_matmul_precision": torch.get_float32_matmul_precision(),
            "cudnn_allow_tf32": torch.backends.cudnn.allow_tf32,
            "parameters": sum(p.numel() for p in self.model.parameters()),
        }

    def _load_weights(self) -> None:
        numpy = importlib.import_module("numpy")
        with numpy.load(self._weights) as arrays:
            state = {name: self.torch.from_numpy(arrays[name]) for name in arrays.files}
        self.model.load_state_dict(state, strict=True)
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = self.opt.lr
        self.optimizer.state.clear()

    def _dataset(self, path: str) -> tuple[Any, float]:
        """Their data set, which reads everything into memory, and the seconds that took."""
        start = time.perf_counter()
        if path not in self._datasets:
            self._datasets[path] = self._read_dataset(path)
        return self._datasets[path], time.perf_counter() - start

    def _read_dataset(self, path: str) -> Any:
        opt = self.opt
        return self.data.StartEndDataset(
            dset_name=opt.dset_name,
            data_path=path,
            v_feat_dirs=opt.v_feat_dirs,
            q_feat_dir=opt.t_feat_dir,
            q_feat_type=opt.q_feat_type,
            max_q_l=opt.max_q_l,
            max_v_l=opt.max_v_l,
            ctx_mode=opt.ctx_mode,
            normalize_v=not opt.no_norm_vfeat,
            normalize_t=not opt.no_norm_tfeat,
            clip_len=opt.clip_length,
            max_windows=opt.max_windows,
            span_loss_type=opt.span_loss_type,
            txt_drop_ratio=0,
            dset_domain=opt.dset_domain,
        )

    def _batch(self, path: str, qids: list[Any]) -> None:
        """Puts the examples of some queries onto the device, in that order."""
        dataset = self._dataset(path)[0]
        places = {meta["qid"]: index for index, meta in enumerate(dataset.data)}
        self.batch = self.data.start_end_collate([dataset[places[qid]] for qid in qids])
        self.inputs, self.targets = self.data.prepare_batch_inputs(self.batch[1], self.opt.device)

    def _set_mode(self, *, dropout: bool, as_in_training: bool, negatives: bool) -> None:
        """Sets what the model does.

        In evaluation mode it takes a single query; but what takes batches follows from the mode of
        the whole, and what drops out from those of its parts.
        """
        self.model.train(dropout)
        self.model.training = as_in_training
        self.opt.use_neg = negatives

    def _exactly(self, function: Any) -> Any:
        """What a function returns without TF32, whose rounding a comparison would show."""
        allowed = self.torch.backends.cudnn.allow_tf32
        self.torch.backends.cudnn.allow_tf32 = False
        try:
            return function()
        finally:
            self.torch.backends.cudnn.allow_tf32 = allowed

    def prepare_forward(self, path: str, qids: list[Any], outputs: str) -> dict[str, Any]:
        """Makes `forward` ready, and writes what it gives to an .npz file."""
        self._load_weights()
        self._batch(path, qids)
        self._set_mode(dropout=False, as_in_training=True, negatives=False)
        with self.torch.no_grad():
            out = self._exactly(lambda: self.model(**self.inputs, targets={}))
        importlib.import_module("numpy").savez(
            outputs,
            logits=out["out_class"][..., 0].cpu().numpy(),
            offsets=out["out_coord"].cpu().numpy(),
            saliency=out["saliency_scores"].cpu().numpy(),
        )
        single = len(qids) == 1
        self._set_mode(dropout=False, as_in_training=not single, negatives=False)
        return {}

    def forward(self, calls: int) -> dict[str, Any]:
        """The model on the batch, up to ranked moments."""
        with self.torch.no_grad():
            return self._timed(lambda: self.model(**self.inputs, targets={}), calls)

    def prepare_train_step(
        self, path: str, qids: list[Any], positive_clips: list, negative_clips: list
    ) -> dict[str, Any]:
        """Makes `train_step` ready; returns the loss without dropout."""
        self._load_weights()
        self._batch(path, qids)
        for name, clips in (("pos", positive_clips), ("neg", negative_clips)):
            labels = self.torch.tensor(clips, device=self.opt.device)
            self.targets[f"saliency_{name}_labels"] = labels
        self.targets["label"] = self.batch[0]
        rate = 1 / self.opt.clip_length
        self.targets["fps"] = self.torch.full((max(256, len(qids)),), rate, device=self.opt.device)
        self._set_mode(dropout=False, as_in_training=True, negatives=True)
        with self.torch.no_grad():
            loss = float(self._exactly(self._loss))
        self._set_mode(dropout=True, as_in_training=True, negatives=True)
        return {"loss": loss}

    def _loss(self) -> Any:
        targets = dict(self.targets)
        outputs = self.model(**self.inputs, targets=targets)
        terms = self.criterion(self.batch, outputs, targets)
        weights = self.criterion.weight_dict
        return sum(weight * terms[name] for name, weight in weights.items())

    def train_step(self, calls: int) -> dict[str, Any]:
        """A step on a batch that is on the device: losses, gradients, clipping, AdamW."""

        def step() -> None:
            loss = self._loss()
            self.optimizer.zero_grad()
            loss.backward()
            self.torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.opt.grad_clip)
            self.optimizer.step()

        return self._timed(step, calls)

    def _loader(self, dataset: Any, batch_size: int, *, shuffle: bool) -> Any:
        return self.torch.utils.data.DataLoader(
            dataset,
            collate_fn=self.data.start_end_collate,
            batch_size=batch_size,
            num_workers=self.opt.num_workers,
            shuffle=shuffle,
            pin_memory=self.opt.pin_memory,
        )

    def prepare_evaluate(self, path: str, outputs: str) -> dict[str, Any]:
        """Makes `evaluate` ready, and writes its predictions, without NMS, as JSON lines."""
        self._load_weights()
        dataset, seconds = self._dataset(path)
        self._set_mode(dropout=False, as_in_training=False, negatives=True)
        self.loader = self._loader(dataset, self.opt.eval_bsz, shuffle=False)
        rows, _ = self._exactly(
            lambda: self.inference.compute_mr_results(self.model, self.loader, self.opt)
        )
        lines = (json.dumps({"qid": row["qid"]} | row) + "\n" for row in rows)
        Path(outputs).write_text("".join(lines))
        return {"load_seconds": seconds}

    def evaluate(self, calls: int) -> dict[str, Any]:
        """Moments of all queries of a split, and again with NMS; not scored."""

        def run() -> None:
            opt = self.opt
            rows, _ = self.inference.compute_mr_results(self.model, self.loader, opt)
            self.inference.post_processing_mr_nms(
                rows, opt.nms_thd, opt.max_before_nms, opt.max_after_nms, opt.nms_type
            )

        return self._timed(run, calls)

    def prepare_scoring(self, predictions: str, annotations: str) -> dict[str, Any]:
        """Makes `scoring` ready; returns the metrics."""
        read = [Path(path).read_text().splitlines() for path in (predictions, annotations)]
        self.rows = [[json.loads(line) for line in lines] for lines in read]
        return {"metrics": self.scorer.eval_submission(*self.rows, verbose=False)["brief"]}

    def scoring(self, calls: int) -> dict[str, Any]:
        """All metrics of a prediction file that is read."""
        return self._timed(lambda: self.scorer.eval_submission(*self.rows, verbose=False), calls)

    def prepare_epoch(self, path: str) -> dict[str, Any]:
        """Makes `epoch` ready; returns how long reading the data set took."""
        self._load_weights()
        dataset, seconds = self._dataset(path)
        self._set_mode(dropout=True, as_in_training=True, negatives=True)
        self.loader = self._loader(dataset, self.opt.bsz, shuffle=True)
        self.writer = self.train.SummaryWriter(self.opt.tensorboard_log_dir)
        return {"load_seconds": seconds}

    def epoch(self, calls: int) -> dict[str, Any]:
        """An epoch of training, data loading and logs included."""

        def run() -> None:
            parts = (self.model, self.criterion, self.loader, self.optimizer, self.opt)
            self.train.train_epoch(*parts, self._epoch, self.writer)
            self._epoch += 1

        return self._timed(run, calls)

    def run(self, seed: int, epochs: int) -> dict[str, Any]:
        """A whole training from a seed, as their train.py does it, checkpoints left out.

        Returns the means of the loss terms over each epoch's batches, under the authors' names, and
        the metrics of the validation split after the last epoch.
        """
        opt = self.opt
        self.train.set_seed(seed, use_cuda=opt.device.type == "cuda")
        train_set, val_set = (self._read_dataset(path) for path in (opt.train_path, opt.eval_path))
        model, criterion, optimizer, _ = self.inference.setup_model(opt)
        loader = self._loader(train_set, opt.bsz, shuffle=True)
        means, terms = _LastValues(), []
        for epoch in range(epochs):
            self.train.train_epoch(model, criterion, loader, optimizer, opt, epoch, means)
            terms.append(dict(means.values))
        with self.torch.no_grad():
            found = self.inference.eval_epoch(
                model, val_set, opt, "predictions.jsonl", epochs, criterion
            )
        metrics = {name: float(value) for name, value in found[0]["brief"].items()}
        return {"terms": terms, "metrics": metrics}

    def _timed(self, function: Any, calls: int) -> dict[str, Any]:
        """Seconds of a call, the mean of some."""
        self._wait()
        start = time.perf_counter()
        for _ in range(calls):
            function()
        self._wait()
        return {"seconds": (time.perf_counter() - start) / calls}

    def _wait(self) -> None:
        if self.opt.device.type == "cuda":
            self.torch.cuda.synchronize()


class _LastValues:
    """In the place of their TensorBoard writer, which gets the means of an epoch up to each step.

    What came last is the mean of the epoch.
    """

    def __init__(self) -> None:
        self.values: dict[str, float] = {}

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.values[name.removeprefix("Train/")] = float(value)


if __name__ == "__main__":
    side = Theirs()
    names = ("forward", "train_step", "evaluate", "scoring", "epoch")
    found = {name: getattr(side, name) for name in ("start", "run", *names)}
    serve(Requests(), found | {f"prepare_{n}": getattr(side, f"prepare_{n}") for n in names})
