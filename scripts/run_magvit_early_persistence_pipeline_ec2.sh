#!/usr/bin/env bash
# Run the whole study: data, training, calibration, evaluation, pictures, report, and decisions on a video.
#
#   bash scripts/run_magvit_early_persistence_pipeline_ec2.sh --host me@gpu-host  everything, on that machine
#   bash scripts/run_magvit_early_persistence_pipeline_ec2.sh --local             everything, on this machine
#   bash scripts/run_magvit_early_persistence_pipeline_ec2.sh --local --quick     the short study, for 2 CPU cores
#   bash scripts/run_magvit_early_persistence_pipeline_ec2.sh --local --video my.mp4
#   bash scripts/run_magvit_early_persistence_pipeline_ec2.sh status|logs|attach|stop|sync|verify
#   bash scripts/run_magvit_early_persistence_pipeline_ec2.sh --local status|logs|stop|verify
#
# Without --local the study runs on a host, as a job that outlives this terminal, this laptop and the link. Results
# come here every minute and are committed to a branch; the end of the job is read from its state on the host.
#   status                running, stale, dead, finished, failed or stopped; stage, heartbeat, last line
#   logs                  what the job printed; --since 10m or '2026-01-31 18:00', -f goes on until its end
#   attach                watch the run again, from any laptop
#   stop                  end it; training saves a checkpoint first, and the next run goes on from there
#   sync                  bring the results now
#   verify                check every line of the verification checklist, on the host
# With --local, status, logs, stop and verify are of the run on this machine, in --results_dir.
# Where
#   --local               run on this machine
#   --host HOST           user@address, or a name from your ssh configuration
#   --key FILE            the private key, if ssh does not know it
#   --ssh_config FILE     an ssh configuration of its own
#   --accept_new_host_key trust a host that was never seen; one whose key has changed is still refused
#   --remote_dir DIR      the repository there (default: early-persistence, in the home there); made when missing
#   --repository URL      where the host clones from and pushes to (default: the origin of this copy)
#   --branch NAME         where results are committed (default: early-persistence/magvit)
#   --local_results DIR   where the host's results come to (default: remote_results/)
#   --sync_interval N     seconds between two syncs (default: 60)
#   --heartbeat N         seconds between two heartbeats (default: 30)
#   --env_file FILE       settings; default: pipeline.env. Copy pipeline.env.example, which explains each. A flag wins
#                         over the environment (PIPELINE_HOST, ...), which wins over the file
#   --dry-run             print what would happen: profile, folders, every stage; with --local also its command, and what
#                         would be installed first. Nothing is done, and nobody is contacted
#   --results_dir DIR     with --local: everything that comes out (default: results/ of early_persistence_detection)
#   --data_dir DIR        with --local: where the generated datasets are kept (default: data/)
# How much
#   --quick               short training, fewer clips
#   --full                the study: 20 epochs, batch size 8, 10,000 clips
#                         neither: full where there is a CUDA GPU, quick otherwise
#   --smoke               a handful of clips through every stage, to see that a machine works: its figures mean nothing
#   --num_clips N         training clips, instead of the profile's
#   --epochs N            epochs of the classifier, instead of the profile's
#   --batch_size N        clips per step, instead of the profile's
#   --until STAGE         stop after this stage (generate_standard, train, evaluate, ...)
# What
#   --preset NAME         the clips: standard, easy or hard (default: standard)
#   --video FILE          the video to decide tracks on (default: the PETS sequence beside the repository when it is
#                         there, a rendered scene otherwise); on a host: a file there
#   --detections FILE     its detections, a file or folder in any format of the guide; without them moving objects are
#                         found in the video
#   --ground_truth FILE   its ground truth, to judge the decisions by
#   --video_first_frame N of a folder of images: the number in the name of the one that is frame 1 (default: 1, or 0
#                         where there is an image 0)
#   --format, --box_format, --first_frame, --detection_stride, --box_scale, --ground_truth_first_frame,
#   --ground_truth_box_format
#                         what the files do not say of themselves, as for detect.py, whose --help explains them
#   --real_data DIR       annotated footage with detections (MOT15/, MOT17/, KITTI/; real/footage.py tells the layout): the
#                         evidence model is judged on it beside the rules of trackers, a section of the report. On a
#                         host: a folder there
#   --rule NAME           what decides in evaluation, pictures and on the video: threshold, per_age or certified
#                         (default: threshold, at confidence 0.95; all three are in the report)
#   --eps E               the share of answers that the certified rule may spoil by stopping early (default: 0.05 with
#                         --quick, 0.02 with --full, which has the clips to show it)
#   --extractor NAME      what turns frames into tokens: magvit, i3d, slowfast or transformer (default: magvit)
#   --compare             also train all four extractors from three seeds, and torchvision's video models, on the same
#                         clips, and put them before one judge: a section of the report. Takes many times as long
#   --device NAME         auto, cpu, cuda or mps (default: auto)
#   --seed N              seed of the data and the training (default: 0)
#   --publish BRANCH      with --local: capture the test evidence, commit each stage's results to BRANCH and push them
#   --help
#
# What --video, --detections and --ground_truth name is checked before anything is generated. Where `detect` fails all the
# same, the report is written and says why, and the run ends with its exit code.
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
# shellcheck source=lib/local.sh
source "$root/scripts/lib/local.sh"
# shellcheck source=lib/settings.sh
source "$root/scripts/lib/settings.sh"
# shellcheck source=lib/link.sh
source "$root/scripts/lib/link.sh"
# shellcheck source=lib/remote.sh
source "$root/scripts/lib/remote.sh"

verb='' local_mode='' dry_run='' asked_profile='' results_dir='' data_dir='' until='' publish_to='' env_file=''
host='' key='' ssh_config='' accept_new_host_key='' remote_dir='' repository='' branch='' local_results=''
sync_interval='' heartbeat='' since='' follow=''
num_clips='' epochs='' batch_size='' video='' video_first_frame='' detections='' ground_truth=''
extractor='' preset='' real_data='' device=auto seed=0 rule=threshold eps='' compare=''
standard_data='' blind_data='' model='' flags=() box_flags=() detect_code=0

main() {
  parse_arguments "$@"
  load_settings "$env_file"
  if [ -n "$local_mode" ]; then
    check_local_arguments
    check_until
    local_run "$@"
  elif [ -n "$verb" ]; then
    remote_verb "$verb"
  else
    check_remote_arguments
    check_until
    study_flags
    if [ -n "$dry_run" ]; then
      show_plan "${flags[@]}"
    else
      remote_run "${flags[@]}"
    fi
  fi
}

run_study() { # every stage, on this machine
  stop_on_signals
  set_up_environment
  check_inputs
  choose_profile "$asked_profile" "$num_clips"
  name_files
  note_datasets
  open_branch
  all_stages
  finish
}

plan_study() { # the same, told instead of done
  say 'Nothing is started. This would happen on this machine:'
  tell_environment
  choose_profile "$asked_profile" "$num_clips"
  name_files
  printf '%s\n' "Results:  $results_dir" "Datasets: $standard_data" "          $blind_data"
  [ -z "$publish_to" ] || say "Branch:   $publish_to gets each stage's result files"
  say 'Stages, each skipped when nothing changed since it finished:'
  all_stages
}

all_stages() {
  capture_evidence
  generate_standard
  train
  calibrate
  evaluate
  compare_tokens
  generate_blind
  check_leakage
  visualize
  analyze
  detect
  evaluate_tracks
  compare
  report
  verify
}

name_files() { # a dataset's folder tells what is in it, so another size or seed never meets it
  standard_data=$data_dir/$preset-$train_clips-$calibration_clips-$test_clips-seed$seed
  blind_data=$data_dir/blind-$blind_train_clips-$blind_test_clips-$blind_test_clips-seed$seed
  model=$results_dir/calibrated_model.pt
}

check_inputs() { # of `detect`, which comes after hours: what it would refuse is refused before anything is made
  [ -n "$video" ] || return 0
  local given=(--video "$video" --output "$results_dir/detection")
  [ -z "$video_first_frame" ] || given+=(--video_first_frame "$video_first_frame")
  [ -z "$detections" ] || given+=(--detections "$detections")
  [ -z "$ground_truth" ] || given+=(--ground_truth "$ground_truth")
  given+=(${box_flags[@]+"${box_flags[@]}"})
  "$python" -m video_tracks.check_inputs "${given[@]}" || exit $?
}

capture_evidence() { # the evaluation tests must pass on this very machine before it trains for hours
  [ -n "$publish_to" ] || return 0
  PYTHON=$python run_stage tdd_evidence --parameters "commit=$(git -C "$root" rev-parse HEAD)" \
    --outputs "$results_dir/tdd_evaluation_green.txt" -- \
    bash "$root/scripts/tdd_evaluation_capture.sh" green --output_dir "$results_dir"
  stage_done tdd_evidence 'TDD: Evaluation scripts GREEN phase evidence'
}

generate_standard() {
  generate "$preset" "$standard_data" "$train_clips" "$calibration_clips" "$test_clips"
}

generate_blind() {
  generate blind "$blind_data" "$blind_train_clips" "$blind_test_clips" "$blind_test_clips"
}

generate() { # preset, folder, clips of the three splits
  run_stage "generate_$1" --outputs "$2" -- \
    "$python" "$packages/persistence_augmented_dataset/generate_dataset.py" --preset "$1" --output_dir "$2" \
    --num_clips "$3" --calibration_clips "$4" --test_clips "$5" --seed "$seed"
  stage_done "generate_$1" ''
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
  local message=''
  [ -n "$dry_run" ] || message=$(sed 's/^[^]]*] //' "$results_dir/TRAINING_COMPLETE.txt")
  stage_done train "$message"
}

calibrate() {
  run_stage calibrate --inputs "$results_dir/final_model.pt" "$standard_data" \
    --outputs "$model" "$results_dir/calibration.json" -- \
    "$python" "$detection/training/calibrate.py" --model "$results_dir/final_model.pt" \
    --data_dir "$standard_data" --output_dir "$results_dir" --eps "${eps:-$default_eps}" --seed "$seed" --device "$device"
  stage_done calibrate 'calibration: Platt scaling and stopping rules'
}

evaluate() {
  local output=$results_dir/evaluation # evaluate_model.py puts the efficiency beside it
  run_stage evaluate --inputs "$model" "$standard_data" --outputs "$results_dir/efficiency_metrics.json" \
    "$output"/{evaluation_metrics.json,predictions.csv,confusion_matrix.png,accuracy_earliness.png,reliability.png} -- \
    "$python" "$detection/evaluation/evaluate_model.py" --model "$model" --test_data "$standard_data" \
    --output "$output" --rule "$rule" --device "$device" --seed "$seed"
  stage_done evaluate 'eval: MagVIT evaluation metrics'
}

compare_tokens() { # what the tokenizer gains; the other extractors have none
  local output=$results_dir/evaluation
  if [ "$extractor" != magvit ]; then
    say "compare_tokens: skipped, it judges the tokens of magvit and this is $extractor"
    [ -n "$dry_run" ] || rm -f "$output/token_ablation.json" # of an earlier run with another extractor
    return 0
  fi
  run_stage compare_tokens --inputs "$model" "$standard_data" --outputs "$output/token_ablation.json" -- \
    "$python" "$detection/evaluation/comparisons/compare_tokens.py" --model "$model" --data_dir "$standard_data" \
    --num_samples "$ablation_clips" --epochs "$ablation_epochs" --output "$output" --device "$device" --seed "$seed"
  stage_done compare_tokens 'eval: Token ablation'
}

check_leakage() {
  local output=$results_dir/evaluation
  run_stage check_leakage --inputs "$model" "$blind_data" --outputs "$output/blind_leak_check.json" -- \
    "$python" "$detection/evaluation/comparisons/check_leakage.py" --model "$model" --data_dir "$blind_data" \
    --epochs "$blind_epochs" --output "$output" --device "$device" --seed "$seed"
  stage_done check_leakage 'eval: Leak check on blind clips'
}

visualize() {
  local pictures=$results_dir/visualizations
  run_stage visualize --inputs "$model" "$standard_data" --outputs "$pictures" "$pictures"/{overview.png,attention_analysis.json} -- \
    "$python" "$detection/evaluation/visualize_attention.py" --model "$model" --data "$standard_data" \
    --output "$pictures" --num_samples 20 --rule "$rule" --device "$device" --seed "$seed"
  stage_done visualize 'viz: Attention visualizations (20 samples)'
}

analyze() {
  local output=$results_dir/analysis
  run_stage analyze --inputs "$results_dir/efficiency_metrics.json" \
    --outputs "$output"/{decision_frame_histogram.png,compute_usage_chart.png,efficiency_report.md,efficiency_statistics.json} -- \
    "$python" "$detection/evaluation/analyze_efficiency.py" --metrics "$results_dir/efficiency_metrics.json" \
    --output "$output"
  stage_done analyze 'analysis: Efficiency analysis complete'
}

detect() {
  local output=$results_dir/detection inputs=("$model") source=()
  choose_video
  if [ -n "$video" ]; then
    inputs+=("$video")
    source=(--video "$video")
    [ -z "$video_first_frame" ] || source+=(--video_first_frame "$video_first_frame")
    [ "$rule" = certified ] || source+=(--finetune) # a certificate is of the model as it was calibrated
    if [ -n "$detections" ]; then
      inputs+=("$detections")
      source+=(--detections "$detections")
      # the scale of the boxes is read from beside or above them
      local folder sequence_info
      folder=$(dirname "$detections")
      for sequence_info in "$folder"/seqinfo.ini "$folder"/../seqinfo.ini; do
        [ ! -f "$sequence_info" ] || inputs+=("$sequence_info")
      done
    fi
    if [ -n "$ground_truth" ]; then
      inputs+=("$ground_truth")
      source+=(--ground_truth "$ground_truth")
    fi
    source+=(${box_flags[@]+"${box_flags[@]}"})
  else
    source=(--synthetic_demo)
  fi
  # no annotated.mp4 among the outputs: where no codec works it is left out, and summary.json says why
  try_stage detect --inputs "${inputs[@]}" --outputs "$output"/{tracks,tracks_backfilled,candidates}.txt "$output"/{events,decisions}.csv "$output"/{summary,explanations}.json -- \
    "$python" "$detection/inference/detect.py" --model "$model" "${source[@]}" --output "$output" --rule "$rule" --explain \
    --device "$device" --seed "$seed"
  detect_code=$stage_code
  if [ "$detect_code" -eq 0 ]; then
    stage_done detect 'detection: Decisions on a video'
    return
  fi
  say "detect failed (exit code $detect_code); what the study found does not depend on it and is reported nonetheless"
  [ "$until" != detect ] || exit "$detect_code"
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

evaluate_tracks() { # where there is annotated footage
  [ -n "$real_data" ] || return 0
  local output=$results_dir/real_tracks inputs=() name
  for name in MOT15 MOT17 KITTI; do
    [ ! -d "$real_data/$name" ] || inputs+=("$real_data/$name")
  done
  run_stage evaluate_tracks --inputs ${inputs[@]+"${inputs[@]}"} --work_in_progress "$output/left_out" \
    --outputs "$output"/{track_metrics.json,frontier.png,auc.png} -- \
    "$python" "$detection/evaluation/evaluate_tracks.py" --data "$real_data" --output "$output" --seed "$seed"
  stage_done evaluate_tracks 'eval: Real tracks beside the rules in use'
}

compare() { # every extractor from several seeds, each run in its own folder, then all before one judge
  [ -n "$compare" ] || return 0
  local name run_seed seeds=()
  for ((run_seed = seed; run_seed < seed + compare_seeds; run_seed++)); do seeds+=("$run_seed"); done
  for name in $extractor_names; do
    for run_seed in "${seeds[@]}"; do
      train_compared "$name" "$run_seed"
    done
  done
  compare_window_models
  compare_extractors "${seeds[@]}"
}

train_compared() { # extractor, seed: trained, calibrated and evaluated as every other
  local name=$1_seed$2 folder=$results_dir/comparison/$1/seed$2
  run_stage "train_$name" --inputs "$standard_data" --work_in_progress "$folder/checkpoints" \
    --outputs "$folder"/{final_model.pt,config.json,training_metrics.json} -- \
    "$python" "$detection/training/train_early_persistence.py" --data_dir "$standard_data" --output_dir "$folder" \
    --profile "$profile" --size "$compare_size" --num_samples "$compare_clips" "${compare_training[@]}" \
    --extractor "$1" --seed "$2" --device "$device" --resume
  stage_done "train_$name" ''
  run_stage "calibrate_$name" --inputs "$folder/final_model.pt" "$standard_data" \
    --outputs "$folder"/{calibrated_model.pt,calibration.json} -- \
    "$python" "$detection/training/calibrate.py" --model "$folder/final_model.pt" --data_dir "$standard_data" \
    --output_dir "$folder" --eps "${eps:-$default_eps}" --seed "$2" --device "$device"
  stage_done "calibrate_$name" ''
  run_stage "evaluate_$name" --inputs "$folder/calibrated_model.pt" "$standard_data" \
    --outputs "$folder/efficiency_metrics.json" \
    "$folder"/evaluation/{evaluation_metrics.json,predictions.csv,confusion_matrix.png,accuracy_earliness.png,reliability.png} -- \
    "$python" "$detection/evaluation/evaluate_model.py" --model "$folder/calibrated_model.pt" \
    --test_data "$standard_data" --output "$folder/evaluation" --num_samples "$compare_test_clips" --skip_timing \
    --device "$device" --seed "$seed"
  stage_done "evaluate_$name" "eval: $1 from seed $2, for the comparison"
}

compare_window_models() {
  local output=$results_dir/comparison
  run_stage compare_window_models --inputs "$standard_data" --outputs "$output/window_models.json" -- \
    "$python" "$detection/evaluation/comparisons/compare_window_models.py" --data_dir "$standard_data" --output "$output" \
    --num_samples "$compare_clips" "${compare_windows[@]}" \
    --device "$device" --seed "$seed"
  stage_done compare_window_models 'eval: Window models that a user would pick instead'
}

compare_extractors() { # seeds
  local runs=$results_dir/comparison name run_seed
  local inputs=("$runs/window_models.json")
  for name in $extractor_names; do
    for run_seed in "$@"; do
      inputs+=("$runs/$name/seed$run_seed"/{config,training_metrics,efficiency_metrics}.json)
      inputs+=("$runs/$name/seed$run_seed"/{calibrated_model.pt,evaluation/evaluation_metrics.json,evaluation/predictions.csv})
    done
  done
  run_stage compare_extractors --inputs "${inputs[@]}" \
    --outputs "$runs"/{extractor_comparison.json,extractor_comparison.png} -- \
    "$python" "$detection/evaluation/comparisons/compare_extractors.py" --runs_dir "$runs" --seeds "$@" \
    --window_models "$runs/window_models.json" --output "$runs" --device "$device" --seed "$seed"
  stage_done compare_extractors 'eval: Extractors compared'
}

report() {
  local inputs=() file
  for file in "$results_dir"/{detection,DETECT_FAILED.txt,real_tracks/{track_metrics.json,frontier.png,auc.png},comparison/extractor_comparison.{json,png}}; do # not of every run
    [ ! -e "$file" ] || inputs+=("$file")
  done
  run_stage report --inputs "$results_dir"/{config,training_metrics,calibration,efficiency_metrics}.json \
    "$results_dir"/{evaluation,visualizations,analysis} ${inputs[@]+"${inputs[@]}"} \
    --code "$detection/evaluation/templates" \
    --outputs "$results_dir"/{FINAL_REPORT.md,FINAL_REPORT.html,success_criteria.json} -- \
    "$python" "$detection/evaluation/generate_report.py" --results_dir "$results_dir" \
    --output "$results_dir/FINAL_REPORT"
  stage_done report 'docs: Final comprehensive report'
}

verify() {
  try_stage verify --always -- "$python" "$root/scripts/verify_results.py" --results_dir "$results_dir" \
    --data_dir "$standard_data" "$blind_data"
  [ "$detect_code" -eq 0 ] || return 0 # its lines fail, and the run ends with its exit code
  [ "$stage_code" -eq 0 ] || exit "$stage_code"
}

finish() {
  if [ "$detect_code" -ne 0 ]; then
    say '' "Report:            $results_dir/FINAL_REPORT.html" "Model:             $model" ''
    printf 'error: detect failed; see %s; the rest of the study is whole. Mend it and give the same command again\n' \
      "$results_dir/DETECT_FAILED.txt" >&2
    exit "$detect_code"
  fi
  "$python" -m study_pipeline.stage_runner --finish --results_dir "$results_dir" \
    --lock_descriptor "$EARLY_PERSISTENCE_LOCK_DESCRIPTOR"
  say '' "Report:            $results_dir/FINAL_REPORT.html"
  say "Tracks of a video: $results_dir/detection/annotated.mp4"
  say "Attention:         $results_dir/visualizations/overview.png"
  say "Model:             $model" ''
  "$python" "$root/scripts/verify_results.py" --results_dir "$results_dir" --figures_only
}

parse_arguments() {
  local follow_flag=''
  while [ $# -gt 0 ]; do
    case $1 in
      status | logs | attach | stop | sync | verify)
        [ -z "$verb" ] || [ "$verb" = "$1" ] || fail "give one of $verb and $1, not both"
        verb=$1
        ;;
      -h | --help)
        print_help "${BASH_SOURCE[0]}"
        exit 0
        ;;
      --local) local_mode=yes ;;
      --dry-run) dry_run=yes ;;
      --compare) compare=yes ;;
      --accept_new_host_key) accept_new_host_key=yes ;;
      --quick | --full | --smoke)
        [ -z "$asked_profile" ] || [ "$asked_profile" = "${1#--}" ] || fail 'give one of --quick, --full and --smoke, not both'
        asked_profile=${1#--}
        ;;
      --results_dir | --data_dir | --real_data | --video | --detections | --ground_truth | --local_results | --key | --ssh_config | --env_file)
        [ -n "${2:-}" ] || fail "$1 needs a path"
        printf -v "${1#--}" '%s' "$(absolute_path "$2")"
        shift
        ;;
      --num_clips | --epochs | --batch_size | --sync_interval | --heartbeat)
        [[ ${2:-} =~ ^[1-9][0-9]*$ ]] || fail "$1 needs a whole number above 0, not '${2:-}'"
        printf -v "${1#--}" '%s' "$2"
        shift
        ;;
      --seed)
        [[ ${2:-} =~ ^[0-9]+$ ]] || fail "$1 needs a whole number, not '${2:-}'"
        seed=$2
        shift
        ;;
      --preset)
        [[ ${2:-} =~ ^(standard|easy|hard)$ ]] || fail "--preset is standard, easy or hard, not '${2:-}'"
        preset=$2
        shift
        ;;
      --rule)
        [[ ${2:-} =~ ^(threshold|per_age|certified)$ ]] || fail "--rule is threshold, per_age or certified, not '${2:-}'"
        rule=$2
        shift
        ;;
      --eps)
        [[ ${2:-} =~ ^0?\.[0-9]*[1-9][0-9]*$ ]] || fail "--eps needs a share between 0 and 1, such as 0.02, not '${2:-}'"
        eps=$2
        shift
        ;;
      --video_first_frame)
        [[ ${2:-} =~ ^[0-9]+$ ]] || fail "$1 needs a whole number, not '${2:-}'"
        video_first_frame=$2
        shift
        ;;
      --format | --box_format | --first_frame | --detection_stride | --box_scale | --ground_truth_first_frame | --ground_truth_box_format)
        [ -n "${2:-}" ] || fail "$1 needs a value"
        box_flags+=("$1" "$2")
        shift
        ;;
      --extractor | --device | --until | --host | --remote_dir | --repository | --branch)
        [ -n "${2:-}" ] || fail "$1 needs a name"
        printf -v "${1#--}" '%s' "$2"
        shift
        ;;
      --publish)
        [ -n "${2:-}" ] || fail '--publish needs the name of a branch'
        publish_to=$2
        shift
        ;;
      --since)
        [ -n "${2:-}" ] || fail '--since takes 10m, 2h or a date and time'
        since=$2
        shift
        ;;
      -f | --follow)
        follow=yes follow_flag=$1
        ;;
      *) fail "'$1' is unknown; --help lists what there is" ;;
    esac
    shift
  done
  [ -z "$since" ] || [ "$verb" = logs ] || fail '--since goes with logs, and takes 10m, 2h or a date and time'
  [ -z "$follow" ] || [ "$verb" = logs ] || fail "$follow_flag goes with logs"
  [ -z "$dry_run" ] || [ -z "$verb" ] || fail "--dry-run tells what a run would do; it does not go with $verb"
}

check_local_arguments() {
  results_dir=${results_dir:-$detection/results} data_dir=${data_dir:-$root/data}
  local file
  for file in "$video" "$detections" "$ground_truth"; do
    [ -z "$file" ] || [ -e "$file" ] || fail "$file does not exist; give the path of a file"
  done
  [ -z "$real_data" ] || [ -d "$real_data" ] || fail "$real_data is no folder; give the one that holds MOT15/, MOT17/ or KITTI/"
  check_video_arguments
}

check_remote_arguments() {
  [ -z "$results_dir$data_dir" ] || fail '--results_dir and --data_dir go with --local; on a host they are run/ and data/ of --remote_dir'
  [ -z "$publish_to" ] || fail '--publish goes with --local; --branch names the branch of a run on a host'
  check_video_arguments
}

check_video_arguments() {
  [ -n "$video" ] || [ -z "$detections$ground_truth" ] || fail '--detections and --ground_truth go with --video; give it too'
  [ -n "$video" ] || [ -z "$video_first_frame" ] || fail '--video_first_frame goes with --video; give it too'
  [ -n "$detections$ground_truth" ] || [ ${#box_flags[@]} -eq 0 ] ||
    fail "${box_flags[0]} is about --detections or --ground_truth; give them too"
}

check_until() { # a name that no stage has would be waited for to the end
  [ -n "$until" ] || return 0
  local asked=$until names
  until=''
  names=$(stage_names)
  until=$asked
  names=${names% }
  [[ " $names " == *" $until "* ]] || fail "--until: this run has no stage '$until'; give one of ${names// /, }"
}

study_flags() { # sets `flags` to what the host's own run of this script gets
  local name
  flags=(--extractor "$extractor" --preset "$preset" --device "$device" --seed "$seed" --rule "$rule")
  [ -z "$asked_profile" ] || flags+=("--$asked_profile")
  [ -z "$compare" ] || flags+=(--compare)
  for name in num_clips epochs batch_size eps until real_data video video_first_frame detections ground_truth; do
    [ -z "${!name}" ] || flags+=("--$name" "${!name}")
  done
  flags+=(${box_flags[@]+"${box_flags[@]}"})
}

absolute_path() {
  case $1 in
    /*) printf '%s\n' "$1" ;;
    *) printf '%s\n' "$PWD/$1" ;;
  esac
}

main "$@"
