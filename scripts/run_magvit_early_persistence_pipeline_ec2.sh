#!/usr/bin/env bash
# Run the whole study: data, training, calibration, evaluation, pictures, report, and decisions on a video.
#
#   bash scripts/run_magvit_early_persistence_pipeline_ec2.sh --local             everything, on this machine
#   bash scripts/run_magvit_early_persistence_pipeline_ec2.sh --local --quick     the short study, for 2 CPU cores
#   bash scripts/run_magvit_early_persistence_pipeline_ec2.sh --local --video my.mp4
#
# Where
#   --local               run on this machine (the remote mode is not part of this version yet)
#   --results_dir DIR     everything that comes out (default: results/ of early_persistence_detection)
#   --data_dir DIR        where the generated datasets are kept (default: data/)
# How much
#   --quick               short training, fewer clips
#   --full                the study: 20 epochs, batch size 8, 10,000 clips
#                         neither: full where there is a CUDA GPU, quick otherwise
#   --num_clips N         training clips, instead of the profile's
#   --epochs N            epochs of the classifier, instead of the profile's
#   --batch_size N        clips per step, instead of the profile's
# What
#   --video FILE          the video to decide tracks on (default: the PETS sequence beside the repository when it is
#                         there, a rendered scene otherwise)
#   --detections FILE     its detections, MOT Challenge text; without them moving objects are found in the video
#   --ground_truth FILE   its ground truth, MOT Challenge text, to judge the decisions by
#   --extractor NAME      what turns frames into tokens (default: magvit)
#   --device NAME         auto, cpu, cuda or mps (default: auto)
#   --seed N              seed of the data and the training (default: 0)
#   --help
#
# Stopped by Ctrl-C, a crash or a power cut? Give the same command again: it goes on from the last whole stage, and
# inside training from the last checkpoint. Stages whose inputs did not change are not run again.
# Watch from another terminal: tail -f RESULTS/PROGRESS.txt. The guide is README_FULL_PIPELINE.md.

# shellcheck source=lib/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
# shellcheck source=lib/setup.sh
source "$root/scripts/lib/setup.sh"
# shellcheck source=lib/profiles.sh
source "$root/scripts/lib/profiles.sh"
# shellcheck source=lib/stages.sh
source "$root/scripts/lib/stages.sh"

local_mode='' asked_profile='' results_dir=$detection/results data_dir=$root/data
num_clips='' epochs='' batch_size='' video='' detections='' ground_truth=''
extractor=magvit device=auto seed=0
standard_data='' blind_data='' model=''

main() {
  parse_arguments "$@"
  set_up_environment
  choose_profile "$asked_profile" "$num_clips"
  name_files
  stop_on_signals
  lock_results

  generate_standard
  generate_blind
  train
  calibrate
  evaluate
  compare_tokens
  check_leakage
  visualize
  analyze
  detect
  report
  verify

  finish
}

name_files() { # a dataset's folder tells what is in it, so another size or seed never meets it
  standard_data=$data_dir/standard-$train_clips-$calibration_clips-$test_clips-seed$seed
  blind_data=$data_dir/blind-$blind_train_clips-$calibration_clips-$blind_test_clips-seed$seed
  model=$results_dir/calibrated_model.pt
}

generate_standard() {
  generate standard "$standard_data" "$train_clips" "$calibration_clips" "$test_clips"
}

generate_blind() {
  generate blind "$blind_data" "$blind_train_clips" "$calibration_clips" "$blind_test_clips"
}

generate() { # preset, folder, clips of the three splits
  run_stage "generate_$1" --outputs "$2" -- \
    "$python" "$packages/persistence_augmented_dataset/generate_dataset.py" --preset "$1" --output_dir "$2" \
    --num_clips "$3" --calibration_clips "$4" --test_clips "$5" --seed "$seed"
}

train() {
  local lengths=()
  [ -z "$epochs" ] || lengths+=(--epochs "$epochs")
  [ -z "$batch_size" ] || lengths+=(--batch_size "$batch_size")
  run_stage train --inputs "$standard_data" --work_in_progress "$results_dir/checkpoints" \
    --outputs "$results_dir"/{final_model.pt,config.json,training_metrics.json} -- \
    "$python" "$detection/training/train_early_persistence.py" --data_dir "$standard_data" \
    --output_dir "$results_dir" --profile "$profile" ${lengths[@]+"${lengths[@]}"} --extractor "$extractor" \
    --seed "$seed" --device "$device" --resume
}

calibrate() {
  run_stage calibrate --inputs "$results_dir/final_model.pt" "$standard_data" \
    --outputs "$model" "$results_dir/calibration.json" -- \
    "$python" "$detection/training/calibrate.py" --model "$results_dir/final_model.pt" \
    --data_dir "$standard_data" --output_dir "$results_dir" --device "$device"
}

evaluate() {
  run_stage evaluate --inputs "$model" "$standard_data" \
    --outputs "$results_dir"/{evaluation_metrics.json,efficiency_metrics.json,predictions.csv} \
    "$results_dir"/{confusion_matrix.png,accuracy_earliness.png,reliability.png} -- \
    "$python" "$detection/evaluation/evaluate_model.py" --model "$model" --test_data "$standard_data" \
    --output "$results_dir" --device "$device" --seed "$seed"
}

compare_tokens() {
  run_stage compare_tokens --inputs "$model" "$standard_data" --outputs "$results_dir/token_ablation.json" -- \
    "$python" "$detection/evaluation/compare_tokens.py" --model "$model" --data_dir "$standard_data" \
    --num_samples "$ablation_clips" --epochs "$ablation_epochs" --output "$results_dir" --device "$device" --seed "$seed"
}

check_leakage() {
  run_stage check_leakage --inputs "$model" "$blind_data" --outputs "$results_dir/blind_leak_check.json" -- \
    "$python" "$detection/evaluation/check_leakage.py" --model "$model" --data_dir "$blind_data" \
    --epochs "$blind_epochs" --output "$results_dir" --device "$device" --seed "$seed"
}

visualize() {
  local pictures=$results_dir/attention_visualizations
  run_stage visualize --inputs "$model" "$standard_data" --outputs "$pictures" "$pictures"/{overview.png,attention_analysis.json} -- \
    "$python" "$detection/evaluation/visualize_attention.py" --model "$model" --data "$standard_data" \
    --output "$pictures" --num_samples 20 --device "$device" --seed "$seed"
}

analyze() {
  local output=$results_dir/efficiency_analysis
  run_stage analyze --inputs "$results_dir/efficiency_metrics.json" \
    --outputs "$output"/{decision_frame_histogram.png,compute_usage_chart.png,efficiency_report.md,efficiency_statistics.json} -- \
    "$python" "$detection/evaluation/analyze_efficiency.py" --metrics "$results_dir/efficiency_metrics.json" \
    --output "$output"
}

detect() {
  local output=$results_dir/detection inputs=("$model") source=()
  choose_video
  if [ -n "$video" ]; then
    inputs+=("$video")
    source=(--video "$video" --finetune)
    if [ -n "$detections" ]; then
      inputs+=("$detections")
      source+=(--detections "$detections")
      # the scale of the boxes is read from beside them
      local sequence_info
      sequence_info=$(dirname "$detections")/../seqinfo.ini
      [ ! -f "$sequence_info" ] || inputs+=("$sequence_info")
    fi
    if [ -n "$ground_truth" ]; then
      inputs+=("$ground_truth")
      source+=(--ground_truth "$ground_truth")
    fi
  else
    source=(--synthetic_demo)
  fi
  run_stage detect --inputs "${inputs[@]}" --outputs "$output"/{tracks.txt,decisions.csv,summary.json,annotated.mp4} -- \
    "$python" "$detection/inference/detect.py" --model "$model" "${source[@]}" --output "$output" --device "$device" \
    --seed "$seed"
}

choose_video() { # the given one, else the measured sequence beside the repository, else none
  local shared=$root/../shared/data
  local sequence=$shared/MOT15/PETS09-S2L1
  if [ -n "$video" ]; then
    say "Deciding tracks on $video"
  elif [ -f "$shared/video/vtest.avi" ] && [ -f "$sequence/det_acf/det.txt" ]; then
    video=$shared/video/vtest.avi detections=$sequence/det_acf/det.txt
    [ ! -f "$sequence/gt/gt.txt" ] || ground_truth=$sequence/gt/gt.txt
    say 'Deciding tracks on vtest.avi (MOT15 PETS09-S2L1), with its public detections and ground truth'
  else
    say 'No --video was given: deciding tracks on a video rendered from a held-out synthetic scene'
  fi
}

report() {
  run_stage report \
    --inputs "$results_dir"/{config,training_metrics,calibration,evaluation_metrics,efficiency_metrics,token_ablation,blind_leak_check}.json \
    "$results_dir"/{attention_visualizations,efficiency_analysis,detection,confusion_matrix.png,accuracy_earliness.png,reliability.png} \
    --code "$detection/evaluation/templates" \
    --outputs "$results_dir"/{FINAL_REPORT.md,FINAL_REPORT.html,success_criteria.json} -- \
    "$python" "$detection/evaluation/generate_report.py" --results_dir "$results_dir" \
    --output "$results_dir/FINAL_REPORT"
}

verify() {
  run_stage verify --always -- "$python" "$root/scripts/verify_results.py" --results_dir "$results_dir" \
    --data_dir "$standard_data" "$blind_data"
}

finish() {
  "$python" -m stage_runner --finish --results_dir "$results_dir" --lock_descriptor 9
  say '' "Report:            $results_dir/FINAL_REPORT.html"
  say "Tracks of a video: $results_dir/detection/annotated.mp4"
  say "Attention:         $results_dir/attention_visualizations/overview.png"
  say "Model:             $model" ''
  "$python" "$root/scripts/verify_results.py" --results_dir "$results_dir" --figures_only
}

parse_arguments() {
  while [ $# -gt 0 ]; do
    case $1 in
      -h | --help)
        print_help "${BASH_SOURCE[0]}"
        exit 0
        ;;
      --local) local_mode=yes ;;
      --quick | --full)
        [ -z "$asked_profile" ] || [ "$asked_profile" = "${1#--}" ] || fail 'give --quick or --full, not both'
        asked_profile=${1#--}
        ;;
      --results_dir | --data_dir | --video | --detections | --ground_truth)
        [ -n "${2:-}" ] || fail "$1 needs a path"
        printf -v "${1#--}" '%s' "$(absolute_path "$2")"
        shift
        ;;
      --num_clips | --epochs | --batch_size)
        [[ ${2:-} =~ ^[1-9][0-9]*$ ]] || fail "$1 needs a whole number above 0, not '${2:-}'"
        printf -v "${1#--}" '%s' "$2"
        shift
        ;;
      --seed)
        [[ ${2:-} =~ ^[0-9]+$ ]] || fail "$1 needs a whole number, not '${2:-}'"
        seed=$2
        shift
        ;;
      --extractor | --device)
        [ -n "${2:-}" ] || fail "$1 needs a name"
        printf -v "${1#--}" '%s' "$2"
        shift
        ;;
      *) fail "'$1' is unknown; --help lists what there is" ;;
    esac
    shift
  done
  [ -n "$local_mode" ] || fail 'the remote mode is not part of this version yet; give --local to run on this machine'
  check_files
}

check_files() {
  local file
  for file in "$video" "$detections" "$ground_truth"; do
    [ -z "$file" ] || [ -e "$file" ] || fail "$file does not exist; give the path of a file"
  done
  [ -n "$video" ] || [ -z "$detections$ground_truth" ] || fail '--detections and --ground_truth go with --video; give it too'
}

absolute_path() {
  case $1 in
    /*) printf '%s\n' "$1" ;;
    *) printf '%s\n' "$PWD/$1" ;;
  esac
}

main "$@"
