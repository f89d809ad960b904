#!/usr/bin/env bash
# Runs every study once, at the size of the demo, over QVHighlights' real annotations (a part of
# them to train on, all for label_correlation; long_videos makes up its own):
#   bash benchmarks/studies.sh ANNOTATIONS [NAME ...]
# ANNOTATIONS is a folder with the released files in qvhighlights/ (highlight_train_release.jsonl,
# highlight_val_release.jsonl) and, for label_correlation, perhaps in tvsum/ and youtube_highlights/.
# NAMEs are studies, all by default. Tables, numbers and figures go to benchmarks/results/studies;
# what was interrupted is resumed. An hour or two on two cores. Needs flashvtg on the path.
set -euo pipefail
if [ $# -lt 1 ] || [ "$1" = --help ]; then
  sed -n '2,8s/^# \{0,1\}//p' "$0"
  exit $(($# < 1))
fi
annotations=$(cd "$1" && pwd)
shift
cd "$(dirname "$0")/.."
output=benchmarks/results/studies
features=runs/studies/features
widths=slowfast=64,clip=32,query=32

if [ $# = 0 ]; then
  set -- label_correlation ablation scales refinement robustness long_videos
fi
for name in "$@"; do
  if [ "$name" = label_correlation ]; then
    # Short names, so that the table shows a command that works elsewhere.
    mkdir -p runs/studies
    ln -sfn "$annotations" runs/studies/annotations
    files=()
    for file in qvhighlights/highlight_{train_release,val_release,test_with_gt}.jsonl \
      tvsum/tvsum_{train,val}.jsonl youtube_highlights/youtube_{train,valid}.jsonl; do
      if [ -f "runs/studies/annotations/$file" ]; then
        files+=("--annotations=runs/studies/annotations/$file")
      fi
    done
    flashvtg study label_correlation "${files[@]}" --output=$output
    continue
  fi
  if [ ! -f $features/highlight_val_release.jsonl ]; then
    flashvtg synthesize --output=$features --widths=$widths --strength=0.7 --limit=400 \
      --annotations="$annotations/qvhighlights/highlight_train_release.jsonl"
    flashvtg synthesize --output=$features --widths=$widths --strength=0.7 --limit=200 \
      --annotations="$annotations/qvhighlights/highlight_val_release.jsonl"
  fi
  flashvtg study "$name" --config=benchmarks/study_config.py:$features --workdir=runs/studies \
    --seeds=2 --output=$output
done
