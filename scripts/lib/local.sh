# shellcheck shell=bash disable=SC2034,SC2154  # variables are shared with the scripts that source this
# A run on this machine: as a job of this very terminal, its plan, and what the verbs do with it. Needs common.sh and
# setup.sh.

local_run() { # the script's own arguments
  if [ -n "$verb" ]; then
    local_verb
  elif [ -n "$dry_run" ]; then
    plan_study
  elif [ -n "${EARLY_PERSISTENCE_LOCK_DESCRIPTOR:-}" ]; then
    run_study # we are the job's own pipeline
  else
    check_inputs_early
    become_job "$@"
  fi
}

check_inputs_early() { # where the environment is there already: before a job and its folder are made
  any_python
  ! "$python" -c 'import cv2, numpy' >/dev/null 2>&1 || check_inputs
}

become_job() { # the script's own arguments: its supervisor takes this process's place and runs the script anew
  any_python
  exec "$python" -m study_pipeline.pipeline_job run --results_dir "$results_dir" --nonce "$(date +%s)-$$-$RANDOM" \
    --who "$(id -un)@$(hostname)" --heartbeat "$heartbeat" -- "$BASH" "$0" "$@"
}

local_verb() {
  case $verb in
    attach | sync) fail "$verb is for a run on a host; the results of a run on this machine are in $results_dir already" ;;
    verify) verify_run ;;
    logs) ask_job logs ${since:+--since "$since"} ${follow:+--follow} ;;
    *) ask_job "$verb" ;;
  esac
}

ask_job() { # verb, flags: answered from the job's own files, even where nothing is installed
  any_python
  exec "$python" -m study_pipeline.pipeline_job "$1" --results_dir "$results_dir" "${@:2}"
}

verify_run() {
  local datasets=() folder
  [ -f "$results_dir/.stages/datasets" ] || fail "there is nothing to verify yet: no run has started its stages in $results_dir"
  while IFS= read -r folder; do
    datasets+=("$folder")
  done <"$results_dir/.stages/datasets"
  use_environment
  "$python" "$root/scripts/verify_results.py" --results_dir "$results_dir" --data_dir "${datasets[@]}"
}

tell_environment() { # sets `python` to the one that a run would use, and says what that would install
  export PYTHONDONTWRITEBYTECODE=1
  if [ -n "${EARLY_PERSISTENCE_VENV:-}" ]; then
    use_own_environment
    say "Environment: $EARLY_PERSISTENCE_VENV, as it is"
    return
  fi
  python=$root/.venv/bin/python
  if ! "$python" -m pip --version >/dev/null 2>&1; then
    say "Needs installing first: $root/.venv is made with $(find_python), then $requirements_cost"
  elif [ "$(cat "$root/.venv/requirements.sha256" 2>/dev/null)" != "$(requirements_hash)" ]; then
    say "Needs installing first: requirements.txt or pyproject.toml changed; in $root/.venv, $requirements_cost"
  else
    say "Environment: $root/.venv, nothing needs installing"
  fi
}
