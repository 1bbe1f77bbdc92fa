# shellcheck shell=bash
# Sent to the host over ssh and run there by bash: brings the code, then starts the job. Repeating it is harmless.
#
# Arguments: directory, repository, commit, branch, nonce, who, heartbeat seconds, git name, git email, then the
# pipeline's own flags. Exit code 2 and one line on stderr when something must be done by a person first.
#
# Everything is inside main, so that a link that breaks in the middle of this text runs nothing of it.

refuse() {
  printf 'error: %s\n' "$*" >&2
  exit 2
}

main() {
  set -Eeuo pipefail
  local directory=$1 repository=$2 commit=$3 branch=$4 nonce=$5 who=$6 heartbeat=$7
  export GIT_AUTHOR_NAME=$8 GIT_AUTHOR_EMAIL=$9 GIT_COMMITTER_NAME=$8 GIT_COMMITTER_EMAIL=$9
  shift 9
  export GIT_TERMINAL_PROMPT=0 GIT_SSH_COMMAND=${GIT_SSH_COMMAND:-ssh -o BatchMode=yes -o ConnectTimeout=15}
  check_tools
  mkdir -p "$directory" || refuse "$directory cannot be made on the host; give another --remote_dir"
  cd "$directory"
  refuse_strangers
  mkdir -p .git 2>/dev/null || refuse "$PWD on the host is a linked work tree of git; give another --remote_dir"
  exec 8>>.git/early-persistence.lock
  flock -w 120 8 || refuse 'another start is at work on the host; try again in a minute'
  [ -e .git/HEAD ] || git init -q . # new, or its making was interrupted
  check_remote "$repository"
  if [ -f scripts/lib/host.sh ]; then
    local known
    known=$(bash scripts/lib/host.sh refuse_second --nonce "$nonce" 8>&-) || exit 2
    [ "$known" != started ] || return 0 # by an earlier try, whose answer was lost
  fi
  bring_code "$repository" "$commit" "$branch"
  bash scripts/lib/host.sh launch --nonce "$nonce" --who "$who" --heartbeat "$heartbeat" -- \
    bash scripts/run_magvit_early_persistence_pipeline_ec2.sh --local --publish "$branch" \
    --results_dir "$PWD/run" --data_dir "$PWD/data" "$@" 8>&-
}

check_tools() {
  local tool missing=''
  for tool in git rsync flock timeout; do
    command -v "$tool" >/dev/null || missing="$missing $tool"
  done
  [ -z "$missing" ] || refuse "the host has no$missing; install with: apt-get install git rsync util-linux coreutils"
  if [ "$(id -u)" -ne 0 ] && command -v busctl >/dev/null; then
    case $(busctl get-property org.freedesktop.login1 /org/freedesktop/login1 \
      org.freedesktop.login1.Manager KillUserProcesses 2>/dev/null || true) in
      'b true') refuse 'this host ends all processes of a user at logout (KillUserProcesses=yes in' \
        '/etc/systemd/logind.conf), so no run would outlive the link; ask its administrator to set it to no' ;;
    esac
  fi
}

refuse_strangers() { # looks for .git last: another start may be making the repository meanwhile
  # (sed reads to the end where head would not: what writes into a closed pipe ends this script without a word)
  local other
  other=$(find . -mindepth 1 -maxdepth 1 ! -name run ! -name data ! -name .git | sed -n 1p)
  [ -z "$other" ] || [ -e .git ] || refuse "$PWD on the host holds other files ($other); give another --remote_dir"
}

check_remote() { # repository
  local there
  git rev-parse -q --verify HEAD >/dev/null || git remote add origin "$1" 2>/dev/null || true # new, as yet
  there=$(git remote get-url origin 2>/dev/null) || there=none
  [ "$there" = "$1" ] || refuse "$PWD on the host is a copy of $there, not of $1; give another --remote_dir"
}

bring_code() { # repository, commit, branch
  local answer='' current changed
  answer=$(timeout 600 git fetch -q --no-tags origin '+refs/heads/*:refs/remotes/origin/*' 2>&1) ||
    printf 'The host cannot fetch from %s (%s)\n' "$1" "$(printf '%s' "$answer" | tail -n 1)"
  git cat-file -e "$2^{commit}" 2>/dev/null ||
    refuse "commit ${2:0:12} is not at $1; push it first (git push), the host takes its code from there"
  if git rev-parse -q --verify HEAD >/dev/null; then
    current=$(git symbolic-ref -q --short HEAD || true)
    [ -z "$current" ] || [ "$current" = "$3" ] ||
      refuse "$PWD on the host is on branch $current, which is not this pipeline's ($3); give another --remote_dir"
    changed=$(git status --porcelain --untracked-files=no | sed -n 1,3p)
    [ -z "$changed" ] ||
      refuse "$PWD on the host has changes that were not committed ($(printf '%s' "$changed" | tr '\n' ' ')); commit or undo them there"
  fi
  answer=$(git checkout -q --detach "$2" 2>&1) ||
    refuse "the host cannot check out ${2:0:12}: $(printf '%s' "$answer" | tr '\n' ' ')"
}

main "$@"
