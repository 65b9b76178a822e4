#!/usr/bin/env bash
# Prototype maps of two real places against an untrained encoder and k-means: bash run.sh DATA OUT [STEPS_DIVISOR [PLACE]]
#
# DATA holds ts_belgium_A and ts_slovenia. OUT gets samples, bundles, maps with their pages, scores.json and maps.png.
# STEPS_DIVISOR shortens the training (default 1), for a check that everything works; PLACE: belgium or slovenia, else both.
# One thing at a time, on one core.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
data=$(cd "$1" && pwd)
out=$2
short=${3:-1}
place=${4:-both}
recipes=$here/recipes
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
mkdir -p "$out"

# learn NAME STEPS SETTING...: the run in $out/NAME, and its encoder as it was drawn (a learning rate of nothing), whose
# prototypes settle in a fifth of the steps
learn() {
  local name=$1 steps=$(($2 / short)); shift 2
  pretrain "$name/pretrain" "$name" "$steps"
  pretrain "$name/untrained" "$name" $(((steps + 4) / 5)) --set train.lr=1e-12
  for kind in map:pretrain map_untrained:untrained; do
    skysense map-prototypes "$recipes/map_$name.yaml" --out "$out/$name/${kind%%:*}" --set "bundle=$out/$name/${kind##*:}/bundle" "$@"
  done
}

pretrain() {
  local folder=$1 name=$2 steps=$3; shift 3
  skysense pretrain "$recipes/pretrain.yaml" --out "$out/$folder" --set "data.index=$out/$name/data/index" \
    --set "train.steps=$steps" --set "train.save_every=$steps" "$@"
}

# Crops of one square of Belgium, from the clear dates of a year
belgium() {
  local scenes=$data/ts_belgium_A
  skysense build-data "$recipes/build_belgium.yaml" --out "$out/belgium/data" --set "area=$scenes/label_croptype_code.tif" \
    --set "modalities.s2.source.path=$scenes/s2" --set "modalities.s2.source.extra.SCL.path=$scenes/scl"
  learn belgium 700 --set "scene.s2.path=$scenes/s2" --set "scene.s2.extra.SCL.path=$scenes/scl" \
    --set "compare.raster=$scenes/label_croptype_code.tif" --set "compare.classes=$here/../belgium_crops/classes.csv"
}

# Land use of a square kilometre of Slovenia, from three dates of one summer
slovenia() {
  local scenes=$data/ts_slovenia
  skysense build-data "$recipes/build_slovenia.yaml" --out "$out/slovenia/data" --set "area=$scenes/label_lulc.tif" \
    --set "modalities.s2.source.path=$scenes/s2"
  learn slovenia 400 --set "scene.s2.path=$scenes/s2" \
    --set "compare.raster=$scenes/label_lulc.tif" --set "compare.classes=$here/classes_slovenia.csv"
}

if [ "$place" != slovenia ]; then belgium; fi
if [ "$place" != belgium ]; then slovenia; fi
python "$here/scores.py" "$data" "$out" # beside k-means on the raw pixels of the same dates, with as many clusters
