# shellcheck shell=bash disable=SC2034,SC2154  # variables are shared with the scripts that source this
# What the laptop does: start the job on the host, watch it, bring the results. The job's state is on the host; this
# end may die at any moment and another may take its place. bash 3.2. Needs common.sh, settings.sh and link.sh.

POLL_SECONDS=2
LONGEST_WAIT=60
START_SECONDS=1500 # a first fetch of the repository over a slow line
STOP_SECONDS=150
sync_job='' state='' exit_code='' stage='' offset=-1 nonce='' result_branch='' result_state=''

remote_run() { # the flags of the study
  require_host
  find_repository
  say_what_runs
  claim_local_results
  open_link "$accept_new_host_key"
  write_verb_program
  start_job "$@"
  watch_job
}

find_repository() {
  repository=${repository:-$(git -C "$root" remote get-url origin 2>/dev/null || true)}
  [ -n "$repository" ] || fail 'this copy has no remote named origin; give the host one to clone with --repository URL'
}

say_what_runs() { # this copy's commit
  commit=$(git -C "$root" rev-parse HEAD)
  [ -z "$(git -C "$root" status --porcelain --untracked-files=no)" ] ||
    say "Changes that are not committed here are not part of the run, which is of commit $(printf '%.12s' "$commit")"
}

show_plan() { # --dry-run: nothing is contacted
  find_repository
  say_what_runs
  printf '%s\n' 'Nothing is started. This would happen:' \
    "1. ssh ${host:-HOST}: make or update the clone of $repository in $remote_dir, at commit $commit" \
    '2. there, as a job that outlives the link:' \
    "   $(printf '%q ' bash scripts/run_magvit_early_persistence_pipeline_ec2.sh --local --publish "$branch" --results_dir run --data_dir data "$@")" \
    "   stages: $(stage_names)" \
    "3. each stage's result files are committed to $branch and pushed; never weights, data or .env" \
    "4. every $sync_interval s: results to $local_results" \
    "5. at the end: a last sync, then $branch is pulled here"
  if [ -n "$asked_profile" ]; then
    python=false choose_profile "$asked_profile" "$num_clips" >/dev/null
    data_dir=$remote_dir/data
    name_files
    printf '%s\n' 'Datasets on the host:' "   $standard_data" "   $blind_data"
  fi
}

stage_names() { # as the run itself would tell its plan
  (
    [ -n "$local_mode" ] || publish_to=$branch
    dry_run=yes results_dir=run data_dir=data
    name_files
    all_stages
  ) | sed -n 's/^ *[0-9]*\. //p' | tr '\n' ' '
}

start_job() { # the flags of the study. A start that is repeated finds the job of the first
  local code=0 wait=1
  nonce=$(date +%s)-$$-$RANDOM
  say "Starting on $host, in $remote_dir, at commit $(printf '%.12s' "$commit")"
  while :; do
    code=0
    on_host "$START_SECONDS" "$root/scripts/lib/host_start.sh" "$remote_dir" "$repository" "$commit" "$branch" "$nonce" \
      "$(id -un)@$(hostname)" "$heartbeat" \
      "$(git -C "$root" config user.name || echo 'early-persistence pipeline')" \
      "$(git -C "$root" config user.email || echo pipeline@localhost)" "$@" || code=$?
    case $code in
      0) return ;;
      2) exit 2 ;; # it said why
      255 | 143) ;;
      *) fail "the start failed on $host with exit code $code; see the lines above" ;;
    esac
    [ "$wait" -le "$LONGEST_WAIT" ] || fail "$host cannot be reached; the same command tries again"
    say "The link to $host broke while starting; trying again in $wait s"
    sleep "$wait"
    wait=$((wait * 2))
  done
}

watch_job() { # until the job has ended, whatever the link does. Ends this program with the job's own exit code
  local wait=1 next_sync=0 told=''
  trap 'leave' INT TERM HUP
  say "Watching; results come to $local_results every $sync_interval s. Ctrl-C leaves the run alone, attach comes back"
  while :; do
    if ask_how_it_stands; then
      [ "$wait" -eq 1 ] || say "The link to $host is back"
      wait=1
      case $state in
        finished | failed | stopped | dead) break ;;
        none) fail "no run was started in $remote_dir on $host" ;;
        running)
          [ "$stage" != setup ] || [ "$told" = setup ] ||
            say 'The host is preparing itself; the first time it makes its environment, which takes minutes (logs -f shows it)'
          told=$stage
          ;;
        stale)
          [ "$told" = stale ] || say "The run is stale: no heartbeat for $heartbeat_age s. Is the machine asleep, or its disk full?"
          told=stale
          ;;
      esac
      if [ "$(date +%s)" -ge "$next_sync" ] && ! sync_is_running; then
        sync_results >"$work/sync.log" 2>&1 &
        sync_job=$!
        next_sync=$(($(date +%s) + sync_interval))
      fi
      nap "$POLL_SECONDS"
    else
      say "The link to $host is lost; the run goes on there. Trying again in $wait s"
      nap "$wait"
      wait=$((wait * 2))
      [ "$wait" -le "$LONGEST_WAIT" ] || wait=$LONGEST_WAIT
    fi
  done
  finish_watching
}

nap() { # a wait that a signal ends at once
  sleep "$1" &
  wait $! || true
}

leave() {
  trap '' INT TERM HUP
  [ -z "$sync_job" ] || kill "$sync_job" 2>/dev/null || true
  printf '\n'
  say "The run goes on, on $host. Come back with: $0 --host $host attach    End it with: $0 --host $host stop"
  exit 130
}

ask_how_it_stands() { # sets state and what goes with it, shows the new milestones; fails when there is no answer
  local code=0 line
  on_host "$LINK_SECONDS" "$work/verb" "$remote_dir" poll --offset "$offset" >"$work/answer" 2>"$work/complaint" || code=$?
  if [ "$code" -eq 2 ]; then
    cat "$work/complaint" >&2
    exit 2
  fi
  [ "$code" -eq 0 ] || return 1
  while IFS= read -r line && [ -n "$line" ]; do
    case $line in
      state=*) state=${line#*=} ;;
      exit_code=*) exit_code=${line#*=} ;;
      stage=*) stage=${line#*=} ;;
      heartbeat_age=*) heartbeat_age=${line#*=} ;;
      branch=*) result_branch=${line#*=} ;;
      branch_state=*) result_state=${line#*=} ;;
      offset=*) offset=${line#*=} ;;
    esac
  done <"$work/answer"
  sed '1,/^$/d' "$work/answer"
}

write_verb_program() { # what every question to the host begins with
  cat >"$work/verb" <<'PROGRAM'
main() {
  cd "$1" 2>/dev/null && [ -f scripts/lib/host.sh ] || {
    case $2 in
      status) echo 'state:      none'; exit 3 ;;
      poll) printf 'state=none\n\n'; exit 0 ;;
    esac
    echo "error: no run was started in $1 on this host" >&2
    exit 2
  }
  shift
  exec bash scripts/lib/host.sh "$@" </dev/null
}
main "$@"
PROGRAM
}

sync_is_running() {
  [ -n "$sync_job" ] && kill -0 "$sync_job" 2>/dev/null
}

finish_watching() { # the last sync comes after the end of the job, however that was
  [ -z "$sync_job" ] || wait "$sync_job" || true
  sync_job=''
  sync_surely
  pull_branch
  case $state in
    finished)
      sed -n 's/^\[[^]]*\] \(.*(target .*\)$/\1/p' "$local_results/logs/pipeline.log" 2>/dev/null | tail -n 5 || true
      say "The run has finished. Results: $local_results (FINAL_REPORT.html), branch ${result_branch:-$branch}"
      exit 0
      ;;
    stopped) say 'The run was stopped; the same command goes on from there' ;;
    dead) say "The run is dead: it ended in stage $stage without a word. The same command goes on from there" ;;
    failed)
      say "The run has failed in stage $stage:"
      cat "$local_results"/*_FAILED.txt 2>/dev/null || true
      ;;
  esac
  exit "${exit_code:-1}"
}

sync_surely() { # with growing waits; what cannot be brought is said
  local wait=1
  while ! sync_results 2>"$work/sync.log"; do
    [ "$wait" -le 16 ] || fail "the results could not be brought ($(tail -n 1 "$work/sync.log")); try again with: $0 --host $host sync"
    say "The sync failed ($(tail -n 1 "$work/sync.log")); trying again in $wait s"
    nap "$wait"
    wait=$((wait * 2))
  done
}

pull_branch() { # from the remote, or from the host itself when its commits could not be pushed
  local name=${result_branch:-$branch} from=$repository
  [ -n "$result_branch" ] || return 0 # the job ended before it had one
  if [ "$result_state" = waiting ]; then
    say "The commits of $name wait on the host, which could not push them; taking them from there"
    from=$host:$remote_dir
  fi
  [ "$result_state" != rescued ] || say "Another change to the branch conflicts with this run's: its commits are on $name"
  local refspec=refs/heads/$name:refs/heads/$name
  if [ "$(git -C "$root" symbolic-ref -q --short HEAD)" = "$name" ]; then
    refspec=refs/heads/$name # checked out here: fetched, then merged if that is a mere step forward
  fi
  local settings=(GIT_TERMINAL_PROMPT=0)
  [ "$from" = "$repository" ] || settings+=(GIT_SSH="$ssh_program" GIT_SSH_VARIANT=ssh)
  if ! bounded 300 env "${settings[@]}" \
    git -C "$root" fetch -q "$from" "$refspec" </dev/null 2>"$work/git.log"; then
    say "The branch $name could not be pulled ($(tail -n 1 "$work/git.log")); later: git fetch origin $name"
  elif [ "$refspec" = "refs/heads/$name" ]; then
    git -C "$root" merge -q --ff-only FETCH_HEAD || say "Your branch $name has commits of its own; merge FETCH_HEAD into it"
  fi
}

remote_verb() { # verb and its own flags
  local verb=$1
  shift
  open_link "$accept_new_host_key"
  write_verb_program
  case $verb in
    attach)
      find_repository
      claim_local_results
      watch_job
      ;;
    sync)
      claim_local_results
      sync_surely
      say "Results are in $local_results"
      ;;
    logs) ask "$([ "$follow" ] && echo 864000 || echo 600)" logs ${since:+--since "$since"} ${follow:+--follow} ;;
    stop) ask "$STOP_SECONDS" stop ;;
    status) ask "$LINK_SECONDS" status ;;
    verify) ask 1200 verify ;;
  esac
}

ask() { # seconds, verb, flags: the answer is the host's, and so is the exit code
  local seconds=$1 code=0
  shift
  on_host "$seconds" "$work/verb" "$remote_dir" "$@" || code=$?
  case $code in
    255 | 143) fail "the link to $host broke; give the same command again" ;;
  esac
  exit "$code"
}
