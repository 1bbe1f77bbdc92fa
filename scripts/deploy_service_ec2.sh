#!/usr/bin/env bash
# Bring the service to a host over SSH, and look after it there. Nothing needs root.
#
#   bash scripts/deploy_service_ec2.sh --host me@host [deploy]     install this commit there, start it, wait until it is ready
#   bash scripts/deploy_service_ec2.sh --host me@host status       the release that runs, whether it is ready, all releases
#   bash scripts/deploy_service_ec2.sh --host me@host logs [-f]    the last lines of its log; -f follows
#   bash scripts/deploy_service_ec2.sh --host me@host rollback     back to the release before this one
#
#   --model exported/      an exported model (export_model.py), for cameras watched by pixels; without: evidence only
#   --port 8080            where it listens, on the host's loopback; reach it by a tunnel, which deploy prints
#   --bind 0.0.0.0         listen elsewhere; only with --tokens FILE (serve.py --new_token NAME prints its lines)
#   --ready_seconds 90     how long a new release may take to be ready; then the one before it comes back
#   --service_dir DIR      the folder on the host, below the home; default early-persistence-service
#   --dry-run              say what would be done; ask the host, change nothing
#   --key, --ssh_config, --env_file, --accept_new_host_key    as of the pipeline's script; PIPELINE_HOST is --host
#
# What is deployed is the last commit. The copy goes on where a broken link left it. Each release has an environment of
# its own (on the host, EARLY_PERSISTENCE_VENV names one that you manage yourself); events and spool lie in data/ and
# stay; the last 3 releases are kept. It is kept running by systemd --user where that runs, else by a loop of its own.

# shellcheck source=lib/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
# shellcheck source=lib/settings.sh
source "$root/scripts/lib/settings.sh"
# shellcheck source=lib/link.sh
source "$root/scripts/lib/link.sh"

# shellcheck disable=SC2034  # settings of the pipeline, which settings.sh reads too
host='' key='' ssh_config='' env_file='' accept_new_host_key='' remote_dir='' repository='' branch='' local_results=''
# shellcheck disable=SC2034
sync_interval='' heartbeat='' epochs='' batch_size='' extractor='' preset='' real_data=''
verb=deploy model='' tokens='' port=8080 bind=127.0.0.1 ready_seconds=90 service_dir=early-persistence-service
dry_run='' follow=''
host_program=$root/scripts/lib/service_host.sh
deployed_paths='pyproject.toml README.md LICENSE experiments/trajectory_video_understanding'
COPY_SECONDS=3600
INSTALL_SECONDS=1800

main() {
  parse_arguments "$@"
  load_settings "$env_file"
  check_arguments
  open_link "$accept_new_host_key"
  case $verb in
    deploy) deploy ;;
    logs) show_logs ;;
    *) on_host "$INSTALL_SECONDS" "$host_program" "$verb" "$service_dir" "$ready_seconds" ;;
  esac
}

deploy() {
  local payload=$work/payload release
  make_payload "$payload"
  release=$(git -C "$root" rev-parse --short=8 HEAD)-$(sha256 <"$payload/MANIFEST" | cut -c 1-12)
  if [ -n "$dry_run" ]; then
    on_host "$LINK_SECONDS" "$host_program" check "$service_dir" "$bind" "$port" || exit $?
    say "Would copy $(du -sk "$payload" | cut -f 1) KB to $host:$service_dir as release $release," \
      "install it, listen on $bind:$port and roll back if it is not ready within $ready_seconds s. Nothing was changed"
    return
  fi
  on_host "$LINK_SECONDS" "$host_program" prepare "$service_dir" "$bind" "$port" "$release" || exit $?
  say "Copying release $release to $host"
  bounded "$COPY_SECONDS" rsync -rtz --delete --partial-dir=.rsync-partial -e "$ssh_program" \
    --rsync-path="cd $(quoted "$service_dir/incoming/$release") && rsync" "$payload/" "$host:./" </dev/null ||
    fail "the copy to $host was cut off; the same command goes on from there"
  on_host "$INSTALL_SECONDS" "$host_program" activate "$service_dir" "$bind" "$port" "$release" "$ready_seconds" || exit $?
  case $bind in
    127.* | localhost | ::1) say "Reach it with: ssh -N -L $port:127.0.0.1:$port $host   then open http://127.0.0.1:$port/" ;;
  esac
}

make_payload() { # folder: the last commit without its tests, the model, the tokens, and the checksums of all
  local changed payload=$1
  # shellcheck disable=SC2086  # names without spaces
  changed=$(git -C "$root" status --porcelain --untracked-files=no -- $deployed_paths | sed -n 1,3p)
  [ -z "$changed" ] ||
    fail "the last commit is what is deployed, and there are changes since ($(printf '%s' "$changed" | tr '\n' ' ')); commit or undo them"
  mkdir -p "$payload/source"
  # shellcheck disable=SC2086
  git -C "$root" archive HEAD -- $deployed_paths | tar -x -C "$payload/source"
  find "$payload/source" -type d -name tests -prune -exec rm -rf {} +
  [ -z "$model" ] || cp -RL "$model" "$payload/model"
  if [ -n "$tokens" ]; then
    cp "$tokens" "$payload/tokens"
    chmod 600 "$payload/tokens"
  fi
  (cd "$payload" && find . -type f -print | LC_ALL=C sort | tr '\n' '\0' | xargs -0 "${sha256_words[@]}") >"$work/manifest"
  mv "$work/manifest" "$payload/MANIFEST"
}

sha256_words=(sha256sum)
command -v sha256sum >/dev/null || sha256_words=(shasum -a 256) # macOS

sha256() {
  "${sha256_words[@]}"
}

show_logs() {
  if [ -z "$follow" ]; then
    on_host "$LINK_SECONDS" "$host_program" logs "$service_dir"
    return
  fi
  # until the user stops it: a link that is gone ends it by itself
  on_host 2000000 "$host_program" follow "$service_dir"
}

parse_arguments() {
  local given=''
  while [ $# -gt 0 ]; do
    case $1 in
      deploy | status | logs | rollback)
        [ -z "$given" ] || fail "give one of $verb and $1, not both"
        verb=$1 given=yes
        ;;
      -h | --help)
        print_help "${BASH_SOURCE[0]}"
        exit 0
        ;;
      --dry-run) dry_run=yes ;;
      --accept_new_host_key) accept_new_host_key=yes ;;
      -f | --follow) follow=yes ;;
      --port | --ready_seconds)
        [[ ${2:-} =~ ^[1-9][0-9]{0,4}$ ]] || fail "$1 needs a whole number above 0, not '${2:-}'"
        printf -v "${1#--}" '%s' "$2"
        shift
        ;;
      --host | --bind | --model | --tokens | --key | --ssh_config | --env_file | --service_dir)
        [ -n "${2:-}" ] || fail "$1 needs a value"
        printf -v "${1#--}" '%s' "$2"
        shift
        ;;
      *) fail "'$1' is unknown; --help lists what there is" ;;
    esac
    shift
  done
}

check_arguments() {
  [ -z "$follow" ] || [ "$verb" = logs ] || fail '-f goes with logs'
  [ -z "$dry_run" ] || [ "$verb" = deploy ] || fail "--dry-run tells what deploy would do; it does not go with $verb"
  [ "$port" -lt 65536 ] || fail "--port is $port; give 1 to 65535"
  [ -z "$model" ] || [ -f "$model/model.json" ] ||
    fail "$model is no exported model (it has no model.json); make one with export_model.py"
  [ -z "$tokens" ] || [ -s "$tokens" ] || fail "the tokens file $tokens does not exist or is empty"
  case $bind in
    127.* | localhost | ::1) ;;
    *)
      [ -n "$tokens" ] || fail "--bind $bind lets others reach the service; give --tokens FILE with it" \
        '(serve.py --new_token NAME prints its lines), or leave --bind away and use a tunnel'
      ;;
  esac
}

main "$@"
