# shellcheck shell=bash disable=SC2034,SC2154  # variables are shared with the scripts that source this
# The link to the host: ssh that never asks and never hangs, programs sent over it, rsync through it.
# Runs on the laptop: bash 3.2, no timeout, no flock, no setsid. Needs common.sh and settings.sh.

work='' ssh_program='' bounded_job=''
LINK_SECONDS=30 # for one question to the host
SYNC_SECONDS=300

open_link() { # accept an unknown host key: yes or nothing
  local tool
  for tool in ssh rsync git; do
    command -v "$tool" >/dev/null || fail "$tool is not installed on this machine; the remote mode needs it"
  done
  require_host
  case $(rsync --version 2>/dev/null) in
    *openrsync*) fail 'this rsync (openrsync) cannot resume safely; install the real one, with: brew install rsync' ;;
  esac
  work=$(mktemp -d "${TMPDIR:-/tmp}/early-persistence.XXXXXX")
  case $work in
    *[[:space:]]*) # rsync splits its -e at spaces
      rmdir "$work"
      work=$(mktemp -d /tmp/early-persistence.XXXXXX)
      ;;
  esac
  trap close_link EXIT
  write_ssh_program "$([ -n "${1:-}" ] && echo accept-new || echo yes)"
  check_access
}

require_host() {
  [ -n "$host" ] || fail 'no host; give --host user@address, or PIPELINE_HOST in pipeline.env (pipeline.env.example);' \
    'or --local to run on this machine'
}

close_link() {
  [ -z "$bounded_job" ] || kill "$bounded_job" 2>/dev/null || true
  rm -rf "$work"
}

write_ssh_program() { # what to do with an unknown host key. One program, so that ssh, rsync and git use the same
  ssh_program=$work/ssh
  local options=(-T
    -o BatchMode=yes -o "StrictHostKeyChecking=$1" -o LogLevel=ERROR
    -o ConnectTimeout=10 -o ServerAliveInterval=2 -o ServerAliveCountMax=3
    -o ForwardAgent=no -o ForwardX11=no -o ClearAllForwardings=yes -o PermitLocalCommand=no
    -o ControlMaster=no -o ControlPath=none) # a frozen master would hang every call
  [ -z "$ssh_config" ] || options=(-F "$ssh_config" "${options[@]}")
  [ -z "$key" ] || options=(-i "$key" -o IdentitiesOnly=yes "${options[@]}")
  {
    printf '#!/bin/bash\nexec ssh'
    printf ' %q' "${options[@]}"
    printf ' "$@"\n'
  } >"$ssh_program"
  chmod 700 "$ssh_program"
}

bounded() { # seconds, command: ended by force when it takes longer (143 then). macOS has no timeout
  local seconds=$1 code=0 watchdog
  shift
  "$@" <&3 3<&- &
  bounded_job=$!
  watch_over "$seconds" "$bounded_job" >/dev/null 2>&1 3<&- &
  watchdog=$!
  { wait "$bounded_job" || code=$?; } 2>/dev/null # bash would say how it ended
  bounded_job=''
  kill "$watchdog" 2>/dev/null || true
  wait "$watchdog" 2>/dev/null || true
  return "$code"
} 3<&0

watch_over() { # seconds, process
  local nap
  trap 'kill "$nap" 2>/dev/null; exit 0' TERM
  sleep "$1" &
  nap=$!
  wait "$nap"
  kill -TERM "$2"
  sleep 5 &
  nap=$!
  wait "$nap"
  kill -KILL "$2"
}

on_host() { # seconds, program file, arguments. The program goes over stdin, so no shell there takes it apart
  local seconds=$1 program=$2
  shift 2
  {
    printf 'set --'
    [ $# -eq 0 ] || printf ' %q' "$@"
    printf '\n'
    cat "$program"
  } >"$work/program"
  bounded "$seconds" "$ssh_program" "$host" 'bash -s' <"$work/program"
}

check_access() { # says what to do about each way in which a host can refuse
  local code=0 answer
  answer=$(bounded "$LINK_SECONDS" "$ssh_program" "$host" true 2>&1 </dev/null) || code=$?
  [ "$code" -ne 0 ] || return 0
  local address
  address=$("$ssh_program" -G "$host" 2>/dev/null | awk '$1 == "hostname" { name = $2 } $1 == "port" { port = $2 } END { print "-p", port, name }')
  case $answer in
    *'IDENTIFICATION HAS CHANGED'*)
      fail "the host key of $host has changed: either the machine was made anew, or someone is in between." \
        "If you know it was made anew, remove the old key with ssh-keygen -R, and pin the new one"
      ;;
    *'host key is known'* | *'Host key verification failed'*)
      fail "the host key of $host is unknown. Compare what this prints with your provider's console:" \
        "ssh-keyscan $address | ssh-keygen -lf -   then pin it: ssh-keyscan $address >> ~/.ssh/known_hosts" \
        "(or trust it once with --accept_new_host_key)"
      ;;
    *'Permission denied'*)
      fail "$host does not accept your key; give the right one with --key, or load it (ssh-add)"
      ;;
    *) fail "$host cannot be reached: $(printf '%s' "${answer:-no answer within $LINK_SECONDS s}" | tail -n 1)" ;;
  esac
}

quoted() { # for the shell on the other side
  printf "'%s'" "$(printf '%s' "$1" | sed "s/'/'\\\\''/g")"
}

claim_local_results() { # a sync removes what is gone on the host, so the folder must hold nothing else
  local marker=.synced-by-early-persistence other
  mkdir -p "$local_results" || fail "cannot write in $local_results; give another folder with --local_results"
  # looks for the marker last: another client may be claiming the folder meanwhile, and marks it before it fills it
  other=$(find "$local_results" -mindepth 1 -maxdepth 1 ! -name "$marker" | sed -n 1p)
  [ -z "$other" ] || [ -f "$local_results/$marker" ] ||
    fail "$local_results holds other files, and a sync would remove them; give another folder with --local_results"
  : >"$local_results/$marker"
}

sync_results() { # what people read comes; weights, data and secrets stay. Files appear whole, cut-off ones go on
  local kind rules=()
  for kind in '.*' '*.env' '*.pem' '*.key' 'id_rsa*' 'id_ed25519*' 'credentials*' 'checkpoints/'; do
    rules+=("--exclude=$kind")
  done
  rules+=('--include=*/')
  for kind in json txt log md html png svg csv; do rules+=("--include=*.$kind"); done
  bounded "$SYNC_SECONDS" rsync -rtz --delete --prune-empty-dirs --partial-dir=.rsync-partial --delay-updates \
    -e "$ssh_program" --rsync-path="cd $(quoted "$remote_dir/run") && rsync" \
    "${rules[@]}" '--exclude=*' "$host:./" "$local_results/" </dev/null
}
