# shellcheck shell=bash disable=SC2034,SC2154  # variables are shared with the scripts that source this
# The sizes of the study. Half of the calibration clips calibrate, the other half test the certified rule; default_eps is
# what so many can show of it. Model size, steps and epochs go with them in training/profiles.py, by --profile. Needs common.sh and `python` from setup.sh.

profile='' profile_reason=''
train_clips='' calibration_clips='' test_clips='' blind_train_clips='' blind_test_clips=''
ablation_clips='' ablation_epochs='' blind_epochs='' default_eps=''
# of --compare: sizes, seeds, and what the four extractors and the window models are given. The latter cost so much more
# that on a CPU minutes bound their training, and fewer clips judge them
compare_seeds=3 compare_size='' compare_clips='' compare_test_clips='' compare_training=() compare_windows=()

guess_profile() { # without torch, which decides in the end
  if nvidia-smi -L >/dev/null 2>&1; then
    profile=full
    profile_reason='because nvidia-smi finds a GPU (torch, which is not installed yet, decides when the run starts)'
  else
    profile=quick
    profile_reason='because nvidia-smi finds no GPU (torch, which is not installed yet, decides when the run starts)'
  fi
}

choose_profile() { # quick, full or nothing; training clips or nothing. Sets what is above and says why
  case ${1:-} in
    quick | full | smoke)
      profile=$1
      profile_reason="because --$1 was given"
      ;;
    *)
      if [ -n "${dry_run:-}" ] && ! "$python" -c 'import torch' 2>/dev/null; then # a plan before anything is installed
        guess_profile
      elif "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
        profile=full
        profile_reason='because this machine has a CUDA GPU (--quick for the short one)'
      else
        profile=quick
        profile_reason='because this machine has no CUDA GPU (--full for the whole study)'
      fi
      ;;
  esac
  case $profile in
    smoke)
      train_clips=160 calibration_clips=96 test_clips=128
      blind_train_clips=96 blind_test_clips=96
      ablation_clips=96 ablation_epochs=1 blind_epochs=1 default_eps=0.05
      compare_size=small compare_clips=96 compare_test_clips=64
      compare_training=(--epochs 1 --batch_size 16)
      compare_windows=(--epochs 1 --minutes 0.2 --test_clips 16 --calibration_clips 90 --ages 1 4)
      ;;
    quick)
      train_clips=6000 calibration_clips=2000 test_clips=2000
      blind_train_clips=2000 blind_test_clips=2000
      ablation_clips=2500 ablation_epochs=3 blind_epochs=3 default_eps=0.05
      compare_size=small compare_clips=3000 compare_test_clips=2000
      compare_training=(--epochs 2 --batch_size 16 --learning_rate 1e-3)
      compare_windows=(--epochs 2 --minutes 4 --test_clips 150 --calibration_clips 80 --ages 1 2 3 4 16)
      ;;
    full)
      train_clips=10000 calibration_clips=10000 test_clips=5000
      blind_train_clips=5000 blind_test_clips=5000
      ablation_clips=10000 ablation_epochs=8 blind_epochs=6 default_eps=0.02
      compare_size=full compare_clips=10000 compare_test_clips=5000
      compare_training=(--epochs 20 --batch_size 32 --learning_rate 1e-3)
      compare_windows=(--epochs 20 --test_clips 5000 --calibration_clips 2000)
      ;;
  esac
  train_clips=${2:-$train_clips}
  say "Profile $profile, $profile_reason"
}
