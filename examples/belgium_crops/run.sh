#!/usr/bin/env bash
# Crop types from real Sentinel-1 and Sentinel-2 series, from scenes to scores: bash run.sh DATA OUT [STEPS_DIVISOR]
#
# DATA holds ts_belgium_A (s2/, scl/, s1/, label_croptype_code.tif). OUT gets data, bundles, maps and scores.json.
# STEPS_DIVISOR shortens the training (default 1), for a check that everything works.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
data=$(cd "$1" && pwd)/ts_belgium_A
out=$2
short=${3:-1}
recipes=$here/recipes
pretrain_steps=$((100 / short))
finetune_steps=$((1100 / short))
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # two runs side by side, one core each
mkdir -p "$out"

# build NAME SCENES CLASSES HOLD_OUT...: samples of $out/NAME/data from the scenes below SCENES
build() {
  local name=$1 scenes=$2 classes=$3; shift 3
  skysense build-data "$recipes/build_data.yaml" --out "$out/$name/data" --set "area=$data/label_croptype_code.tif" \
    --set "modalities.s2.source.path=$scenes/s2" --set "modalities.s2.source.extra.SCL.path=$data/scl" \
    --set "modalities.s1.source.path=$scenes/s1" --set "label.raster=$data/label_croptype_code.tif" \
    --set "label.classes=$here/$classes" "$@"
}

# learn NAME: pretrain and fine-tune on $out/NAME/data
learn() {
  local name=$1
  skysense pretrain "$recipes/pretrain.yaml" --out "$out/$name/pretrain" --set "data.index=$out/$name/data/index" \
    --set "train.steps=$pretrain_steps" --set "train.save_every=$pretrain_steps"
  finetune "$name" "$out/$name/pretrain/bundle"
}

finetune() {
  local name=$1 start=$2
  skysense finetune "$recipes/finetune.yaml" --out "$out/$name/crops" --set "start_from=$start" \
    --set "data.index=$out/$name/data/index" --set "train.steps=$finetune_steps" --set "train.save_every=$finetune_steps"
}

# score NAME SCENES: map the scenes and compare with the held-back label pixels
score() {
  local name=$1 scenes=$2
  skysense predict "$recipes/predict.yaml" --out "$out/$name/crops.tif" --set "bundle=$out/$name/crops/bundle" \
    --set "scene.s2.path=$scenes/s2" --set "scene.s2.extra.SCL.path=$data/scl" --set "scene.s1.path=$scenes/s1"
  skysense evaluate "$recipes/evaluate.yaml" --out "$out/$name/scores" --set "map=$out/$name/crops.tif" \
    --set "data.index=$out/$name/data/index"
}

# 1. How much of the score is position alone: the same run with every date replaced by noise. Beside the others.
noise() {
  python "$here/noise_scenes.py" "$data" "$out/noise/scenes"
  build noise "$out/noise/scenes" classes.csv
  learn noise
  score noise "$out/noise/scenes"
}
noise > "$out/noise.log" 2>&1 &
beside=$!

# 2. The real thing: an 8 x 8 px checkerboard of the labels is held back.
build main "$data" classes.csv
learn main
score main "$data"
skysense map-prototypes "$recipes/map_prototypes.yaml" --out "$out/main/prototypes" --set "bundle=$out/main/pretrain/bundle" \
  --set "scene.s2.path=$data/s2" --set "scene.s2.extra.SCL.path=$data/scl" --set "scene.s1.path=$data/s1"

# 3. What carries over to fields never seen: whole fields of wheat, maize and grass are held back.
build fields "$data" classes_fields.csv --set "label.hold_out={fields: {codes: [1110, 1200, 9120], share: 0.5, seed: 0}}"
finetune_steps=$((finetune_steps / 2)) # three classes are learned sooner than seven
finetune fields "$out/main/pretrain/bundle"
score fields "$data"

wait "$beside" || { tail -n 20 "$out/noise.log" >&2; exit 1; }
python "$here/scores.py" "$data/label_croptype_code.tif" "$here/classes.csv" "$out"
