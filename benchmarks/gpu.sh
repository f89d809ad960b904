#!/usr/bin/env bash
# The rows of the benchmarks that are for a GPU, in one command that ends within ten minutes and
# needs no network: training steps, evaluation, long videos, input, and the PyTorch code beside it.
#
#   bash benchmarks/gpu.sh
#   WHEELS=wheels REFERENCE=FlashVTG bash benchmarks/gpu.sh
#
# Results are written to benchmarks/results/NAME_gpu.json. A benchmark that fails, or that takes
# longer than its share of the time, does not stop the others; the last lines say which did. The
# exit status is 1 if any did, or if jax sees no GPU.
#
# Settings, all from the environment:
#   PYTHON     interpreter, 3.12 (default: python3.12, else python3)
#   WHEELS     folder of wheels to install first, into a folder that is removed in the end
#   REFERENCE  checkout of the authors' code, for compare_pytorch; without, it is left out
#   REFERENCE_PYTHON  interpreter with PyTorch and nncore for it (default: that of compare_pytorch)
#   DATA_DIR   of the built QVHighlights, for input_pipeline; without, features are made up
#   RESULTS    where to write (default: benchmarks/results)
#   LIMIT      seconds for everything (default: 590)
#   COMMIT     what results name as their commit where this is no git checkout
#   DEVICE     gpu (default), or cpu or tpu to try the script
#   SMOKE      1: small models, to see that everything runs; writes to a folder that is removed
#
# What must be brought as wheels: everything that `bash benchmarks/gpu.sh --requirements` prints,
# with what it depends on. On a machine with network, Linux on x86-64 and Python 3.12:
#
#   bash benchmarks/gpu.sh --requirements > requirements.txt
#   python3.12 -m pip wheel --wheel-dir=wheels -r requirements.txt
#
# (`pip download` is not enough: promise is released as source only.) That is about 3 GB, most of it
# CUDA:
#   jax, jaxlib, jax-cuda12-plugin and jax-cuda12-pjrt, all 0.11.2; nvidia-cublas-cu12,
#   nvidia-cuda-cccl-cu12, nvidia-cuda-cupti-cu12, nvidia-cuda-nvcc-cu12, nvidia-cuda-nvrtc-cu12,
#   nvidia-cuda-runtime-cu12, nvidia-cudnn-cu12, nvidia-cufft-cu12, nvidia-cusolver-cu12,
#   nvidia-cusparse-cu12, nvidia-nccl-cu12, nvidia-nvjitlink-cu12, nvidia-nvshmem-cu12
#   flax, optax, orbax-checkpoint, chex, grain, array_record, tensorflow-datasets, ml_collections,
#   importlib_resources, absl-py, numpy, matplotlib, tensorboardX, tqdm, and what these need.
# Where jax with CUDA is installed already (12 or 13), bring only what is missing: usually grain,
# array_record, dm-tree, etils, tensorflow-datasets, tensorflow-metadata, googleapis-common-protos,
# importlib_resources, immutabledict, promise, simple-parsing, docstring_parser, toml, termcolor,
# portpicker, ml_collections and tensorboardX. Wheels come before what is installed.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "${1:-}" = --help ]; then
  awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' benchmarks/gpu.sh
  exit
fi

python=${PYTHON:-$(command -v python3.12 || command -v python3 || true)}
[ -n "$python" ] || { echo "error: no python3 here; set PYTHON" >&2; exit 1; }

# Prints what the package needs besides jax, for Python 3.12, as setup.py has it. setuptools need not
# be there.
requirements() {
  "$python" - <<'END'
import runpy, sys, types

found, setuptools = {}, types.ModuleType("setuptools")
setuptools.setup, setuptools.find_packages = found.update, lambda **_: []
sys.modules["setuptools"] = setuptools
runpy.run_path("setup.py")
for line in found["install_requires"]:
    requirement, _, marker = (part.strip() for part in line.partition(";"))
    if "< '3.12'" not in marker and not requirement.startswith("jax>"):
        print(requirement)
END
}

if [ "${1:-}" = --requirements ]; then
  echo "jax[cuda12]==0.11.2"
  requirements
  exit
fi
if [ -n "${1:-}" ]; then
  echo "error: $1: there are --help and --requirements; settings come from the environment" >&2
  exit 2
fi

DEVICE=${DEVICE:-gpu}
LIMIT=${LIMIT:-590}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
RESULTS=${RESULTS:-benchmarks/results}
smoke=()
sizes=64,1024,256
if [ "${SMOKE:-}" = 1 ]; then
  sizes=2
  RESULTS=$scratch/results
  smoke=(--smoke)
fi
mkdir -p "$RESULTS"
if [ "$DEVICE" = cpu ]; then
  export JAX_PLATFORMS=cpu  # also beside a GPU
fi

export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
if [ -n "${WHEELS:-}" ]; then
  echo "== installing the wheels of $WHEELS" >&2
  # Not a virtual environment: it would hide what is installed, where only a part is brought.
  "$python" -m pip install --quiet --no-index --no-deps --no-compile --disable-pip-version-check \
    --target "$scratch/site" "$WHEELS"/*.whl
  PYTHONPATH=$scratch/site:$PYTHONPATH
fi

requirements > "$scratch/requirements"
"$python" - "$DEVICE" "$scratch/requirements" <<'END' || exit 1
import importlib.metadata, pathlib, re, sys

device, path = sys.argv[1:]
missing = []
for line in ["jax", *pathlib.Path(path).read_text().splitlines()]:
    name = re.match(r"[\w-]+", line).group()
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        missing.append(name)
if missing:
    sys.exit(
        f"error: {sys.executable} lacks {', '.join(missing)}; bring wheels and set WHEELS "
        "(bash benchmarks/gpu.sh --help)"
    )
sys.path.insert(0, "benchmarks")
from measuring import require_device

require_device(device)
import jax

print(f"== jax {jax.__version__} on {jax.devices()[0].device_kind}", file=sys.stderr)
END

summary=()
failed=0

# row NAME SECONDS OPTIONS...: runs a benchmark within its own limit and what is left of all.
row() {
  local name=$1 limit=$2 status=0 begun=$SECONDS left=$((LIMIT - SECONDS - 10))
  local output=$RESULTS/${name}_$DEVICE.json
  shift 2
  if [ "$left" -lt 15 ]; then
    summary+=("$name: NOT STARTED, the time was over")
    failed=1
    return
  fi
  [ "$limit" -lt "$left" ] || limit=$left
  echo "== $name, at most $limit s" >&2
  rm -f "$output"  # an older one is no result of this run
  timeout --kill-after=5 "$limit" "$python" "benchmarks/$name.py" "$@" \
    --output="$output" > /dev/null || status=$?
  local took=$((SECONDS - begun)) what="nothing was written"
  [ ! -e "$output" ] || what="${output#"$scratch"/}"
  case $status in
    0) summary+=("$name: done in $took s, $what") ;;
    124 | 137) summary+=("$name: STOPPED after $took s; what was measured: $what") ;;
    *) summary+=("$name: FAILED with status $status after $took s; what was measured: $what") ;;
  esac
  [ "$status" = 0 ] || failed=1
}

on=(--device="$DEVICE" "${smoke[@]}")
full=qvhighlights_slowfast_clip
# The most important rows first; the limits add up to more than there is, for few need theirs.
row train_step 230 "${on[@]}" --config=$full --batch_sizes=$sizes --repeats=3
row evaluate 120 "${on[@]}" --config=$full --batch_sizes=64,256 --queries=1550 --repeats=3
if [ -n "${REFERENCE:-}" ]; then
  row compare_pytorch 150 "${on[@]}" --reference="$REFERENCE" \
    ${REFERENCE_PYTHON:+--reference_python="$REFERENCE_PYTHON"} --rows=train_step,evaluate
else
  summary+=("compare_pytorch: left out, for REFERENCE names no checkout of the authors' code")
fi
data=${DATA_DIR:-}
if [ -z "$data" ] && [ "${SMOKE:-}" != 1 ]; then
  echo "== making up features of the released widths" >&2
  data=$scratch/data
  { JAX_PLATFORMS=cpu timeout 90 "$python" -m flashvtg_jax synthesize --output="$scratch/raw" \
      --dataset=qvhighlights/slowfast_clip --num_train=1024 --num_val=8 &&
    JAX_PLATFORMS=cpu timeout 60 "$python" -m flashvtg_jax build --manual_dir="$scratch/raw" \
      --dataset=qvhighlights/slowfast_clip --data_dir="$data"; } > /dev/null 2>&1 ||
    summary+=("input_pipeline: its data could not be made")
fi
row input_pipeline 120 "${on[@]}" --config=$full ${data:+--data_dir="$data"} --repeats=3
row scaling 200 "${on[@]}" --attention=windowed --programs=training,inference \
  --clips=600,3600,7200 --max_levels=0 --repeats=3

printf '%s\n' "== after $SECONDS s" "${summary[@]}" >&2
exit $failed
