# shellcheck shell=bash
# Sent to the host over ssh and run there by bash: one verb of deploy_service_ec2.sh. First arguments: verb, folder.
# Everything is inside main, so that a link that breaks in the middle of this text runs nothing of it.
#
# The folder: incoming/RELEASE (a copy under way), releases/RELEASE (source, model, tokens, venv, run; whole when it has
# `complete`), current -> releases/RELEASE, previous (the name before it), data (what the service keeps), service.log.

KEPT_RELEASES=3
unit=early-persistence-deployed

refuse() {
  printf 'error: %s\n' "$*" >&2
  exit 2
}

main() {
  set -Eeuo pipefail
  umask 077
  local verb=$1 folder=$2
  shift 2
  case $verb in
    check)
      check_host "$@"
      return
      ;;
    prepare | activate) mkdir -p "$folder" || refuse "$folder cannot be made on the host; give another --service_dir" ;;
    *) [ -e "$folder/current" ] || refuse "nothing is deployed in $folder on the host; deploy first" ;;
  esac
  cd "$folder"
  folder=$(pwd -P)
  case $verb in
    logs) tail -n 100 service.log ;;
    follow) exec tail -n 100 -F service.log ;;
    status) show_status ;;
    prepare) prepare "$@" ;;
    activate | rollback)
      exec 8>>deploy.lock
      flock -w 60 8 || refuse 'another deployment is at work on the host; try again in a minute'
      "$verb" "$@"
      ;;
  esac
}

check_host() { # address, port
  local tool missing=''
  for tool in rsync flock setsid sha256sum; do
    command -v "$tool" >/dev/null || missing="$missing $tool"
  done
  [ -z "$missing" ] || refuse "the host has no$missing; install with: apt-get install rsync util-linux coreutils"
  python=$(find_python) || exit 2
}

find_python() {
  local candidate
  if [ -n "${EARLY_PERSISTENCE_VENV:-}" ]; then
    [ -x "$EARLY_PERSISTENCE_VENV/bin/python" ] ||
      refuse "EARLY_PERSISTENCE_VENV on the host is $EARLY_PERSISTENCE_VENV, which has no bin/python; unset it or mend it"
    printf '%s\n' "$EARLY_PERSISTENCE_VENV/bin/python"
    return
  fi
  for candidate in python3.13 python3.12 python3.11 python3; do
    "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 || continue
    command -v "$candidate"
    return
  done
  refuse 'the host has no Python 3.11 or newer with venv; install it, on Debian 12 or newer with:' \
    'apt-get install python3 python3-venv'
}

prepare() { # address, port, release
  check_host
  check_port "$1" "$2"
  mkdir -p incoming releases data
  if [ -e "releases/$3/complete" ] && [ ! -d "incoming/$3" ]; then
    cp -al "releases/$3" "incoming/$3" # rsync then has nothing to copy; it removes what is not of the copy
  fi
  mkdir -p "incoming/$3"
}

check_port() { # address, port: free, or held by the release that runs
  ! { is_running && [ "$(cat current/port 2>/dev/null)" = "$2" ]; } || return 0
  "$python" -c '
import socket, sys
with socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET) as probe:
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    probe.bind((sys.argv[1], int(sys.argv[2])))' "$1" "$2" 2>/dev/null ||
    refuse "port $2 of $1 on the host is taken by another program, or not allowed; give another --port"
}

activate() { # address, port, release, seconds
  local release=$3 before=''
  check_host
  check_port "$1" "$2"
  (cd "incoming/$release" && sha256sum --quiet -c MANIFEST) >/dev/null 2>&1 ||
    refuse 'the copy is not whole (a checksum differs); give the same command again'
  [ ! -e current ] || before=$(basename "$(readlink current)")
  if [ "$before" = "$release" ] && [ "$(cat "current/bind" "current/port")" = "$1"$'\n'"$2" ] && is_running && is_ready; then
    rm -rf "incoming/$release"
    printf 'Release %s runs already and is ready\n' "$release"
    return
  fi
  if [ "$before" = "$release" ]; then # the same files, started anew with these settings
    rm -rf "incoming/$release"
  else
    rm -rf "releases/$release"
    mv "incoming/$release" "releases/$release"
    install_release "releases/$release"
  fi
  write_run "releases/$release" "$1" "$2"
  : >"releases/$release/complete"
  switch_to "$release"
  if wait_ready "$4"; then
    [ "$before" = "$release" ] || printf '%s\n' "$before" >previous
    remove_old_releases
    printf 'Release %s is ready on %s:%s\n' "$release" "$1" "$2"
    return
  fi
  printf 'The last lines of its log:\n' >&2
  tail -n 15 service.log >&2
  if [ -z "$before" ] || [ "$before" = "$release" ]; then
    stop_service
    refuse "release $release is not ready, and there is none before it to go back to; the service is stopped"
  fi
  switch_to "$before"
  wait_ready "$4" || refuse "release $release is not ready, and neither is $before, which was running before; see logs"
  rm -rf "releases/$release"
  refuse "release $release is not ready; $before, the one before it, serves again"
}

install_release() { # folder
  local python_there=$python
  if [ -z "${EARLY_PERSISTENCE_VENV:-}" ]; then
    printf 'Installing it into an environment of its own\n'
    "$python" -m venv "$1/venv"
    python_there=$folder/$1/venv/bin/python
    "$python_there" -m pip install -q --disable-pip-version-check --log "$folder/install.log" "$1/source[service]" ||
      refuse "pip could not install the service on the host; see $folder/install.log there. What ran before still runs"
  fi
  printf '%s\n' "$python_there" >"$1/python"
}

write_run() { # folder, address, port: what is started, whoever keeps it running
  printf '%s\n' "$2" >"$1/bind"
  printf '%s\n' "$3" >"$1/port"
  {
    printf '#!/bin/bash\n'
    printf 'cd %q || exit 2\nexec >>%q 2>&1\n' "$folder/data" "$folder/service.log"
    printf 'export PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 OMP_WAIT_POLICY=PASSIVE\n'
    printf 'export EPD_HOST=%q EPD_PORT=%q\n' "$2" "$3"
    printf 'export PYTHONPATH=%q\n' "$folder/$1/source/experiments/trajectory_video_understanding"
    [ ! -d "$1/model" ] || printf 'export EPD_MODEL=%q\n' "$folder/$1/model"
    [ ! -f "$1/tokens" ] || printf 'export EPD_TOKENS_FILE=%q\n' "$folder/$1/tokens"
    printf 'exec %q -m early_persistence_detection.inference.service.serve\n' "$(cat "$1/python")"
  } >"$1/run"
}

switch_to() { # release
  ln -sfn "releases/$1" .current.new
  stop_service
  mv -T .current.new current
  start_service
}

has_systemd() {
  [ -d /run/systemd/system ] && systemctl --user show-environment >/dev/null 2>&1
}

start_service() {
  rm -f last_exit
  [ ! -f service.log ] || [ "$(stat -c %s service.log)" -lt 67108864 ] || mv service.log service.log.1
  printf -- '--- %s starts, %s\n' "$(readlink current)" "$(date -u +%Y-%m-%dT%H:%M:%SZ)" >>service.log
  if has_systemd; then
    write_unit
    systemctl --user daemon-reload
    systemctl --user enable -q "$unit"
    systemctl --user reset-failed "$unit" 2>/dev/null || true
    systemctl --user start "$unit"
    loginctl enable-linger 2>/dev/null ||
      printf 'It ends when you log out; ask an administrator for: loginctl enable-linger %s\n' "$(id -un)" >&2
    return
  fi
  write_loop
  setsid bash "$folder/loop" </dev/null >>service.log 2>&1 8>&- &
}

write_unit() {
  local units=$HOME/.config/systemd/user path=${folder//%/%%}
  mkdir -p "$units"
  cat >"$units/$unit.service" <<END
[Unit]
Description=Early persistence detection, deployed to $path
StartLimitIntervalSec=300
StartLimitBurst=10
[Service]
ExecStart=/bin/bash "$path/current/run"
Restart=on-failure
RestartSec=2
RestartPreventExitStatus=2
TimeoutStopSec=45
NoNewPrivileges=yes
[Install]
WantedBy=default.target
END
}

write_loop() { # starts the service again when it ends, but for exit code 2, which is for a person
  {
    printf 'cd %q || exit 2\n' "$folder"
    cat <<'END'
exec 9>>loop.lock
flock -n 9 || exit 0
trap 'stopping=yes; kill -TERM "$child" 2>/dev/null' TERM
printf '%s\n' $$ >loop.pid
stopping='' child=''
while [ -z "$stopping" ]; do
  bash current/run 9>&- &
  child=$!
  printf '%s\n' "$child" >service.pid
  code=0
  wait "$child" || code=$?
  while kill -0 "$child" 2>/dev/null; do wait "$child" || code=$?; done # a signal ends the first wait only
  printf '%s\n' "$code" >last_exit
  [ "$code" -ne 0 ] && [ "$code" -ne 2 ] || break
  [ -n "$stopping" ] || sleep 2
done
rm -f loop.pid service.pid
END
  } >loop.new
  mv loop.new loop
}

process_of() { # pid file: prints the process, when it lives and works in this folder
  local pid directory
  pid=$(cat "$1" 2>/dev/null) || return 1
  directory=$(readlink "/proc/$pid/cwd" 2>/dev/null) || return 1
  [ "$directory" = "$folder" ] || [ "$directory" = "$folder/data" ] || return 1
  printf '%s\n' "$pid"
}

is_running() {
  if has_systemd; then
    systemctl --user is-active -q "$unit"
  else
    process_of loop.pid >/dev/null
  fi
}

stop_service() {
  local name pid waited
  if has_systemd; then
    systemctl --user stop "$unit" 2>/dev/null || true
    return
  fi
  for name in loop.pid service.pid; do # the second of a loop that was killed
    pid=$(process_of "$name") || continue
    kill -TERM "$pid" 2>/dev/null || true
    waited=0
    while process_of "$name" >/dev/null; do
      waited=$((waited + 1))
      if [ "$waited" -ge 450 ]; then
        pid=$(process_of service.pid) && kill -KILL "$pid" 2>/dev/null
        pid=$(process_of "$name") && kill -KILL "$pid" 2>/dev/null
      fi
      sleep 0.1
    done
  done
  rm -f loop.pid service.pid
}

is_ready() {
  "$(cat current/python)" -c '
import sys, urllib.request
address = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(sys.argv[1], sys.argv[1])
address = f"[{address}]" if ":" in address else address
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
opener.open(f"http://{address}:{sys.argv[2]}/readyz", timeout=5)' "$(cat current/bind)" "$(cat current/port)" 2>/dev/null
}

has_failed() {
  if has_systemd; then
    [ "$(systemctl --user show -p NRestarts --value "$unit")" != 0 ] || systemctl --user is-failed -q "$unit"
  else
    [ -e last_exit ]
  fi
}

wait_ready() { # seconds
  local deadline=$((SECONDS + $1))
  while [ "$SECONDS" -lt "$deadline" ]; do
    ! has_failed || return 1
    ! is_ready || { is_running && ! has_failed; } || return 1
    ! is_ready || return 0
    sleep 0.3
  done
  return 1
}

releases() { # names, the youngest first
  find releases -mindepth 1 -maxdepth 1 -printf '%T@ %f\n' | sort -rn | cut -d ' ' -f 2
}

remove_old_releases() { # but the one that runs, the one before it, and the youngest
  local name kept=0 now before
  now=$(basename "$(readlink current)") before=$(cat previous 2>/dev/null || true)
  while IFS= read -r name; do
    case $name in "$now" | "$before") kept=$((kept + 1)) ;; esac
  done < <(releases)
  while IFS= read -r name; do
    case $name in "$now" | "$before") continue ;; esac
    kept=$((kept + 1))
    [ "$kept" -le "$KEPT_RELEASES" ] || rm -rf "releases/$name"
  done < <(releases)
}

show_status() {
  local state='does not run' code=1
  if is_running; then
    state='runs, is not ready'
    ! is_ready || state=ready code=0
  fi
  printf 'Release:  %s\nState:    %s\nAddress:  %s:%s\nReleases: %s\n' "$(basename "$(readlink current)")" "$state" \
    "$(cat current/bind)" "$(cat current/port)" "$(releases | tr '\n' ' ')"
  return "$code"
}

rollback() { # seconds
  local before now
  now=$(basename "$(readlink current)")
  before=$(cat previous 2>/dev/null || true)
  [ -n "$before" ] && [ -e "releases/$before/complete" ] || refuse 'there is no release before this one to go back to'
  switch_to "$before"
  if wait_ready "$1"; then
    printf '%s\n' "$now" >previous
    printf 'Release %s is ready\n' "$before"
    return
  fi
  tail -n 15 service.log >&2
  switch_to "$now"
  wait_ready "$1" || refuse "neither $before nor $now is ready; see logs"
  refuse "release $before is not ready; $now serves on"
}

main "$@"
