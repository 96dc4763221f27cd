#!/usr/bin/env bash
# remote.sh HOST [DATE] [OPTION...] [-- GRETA COMMAND...] - GRETA on another machine, over ssh.
#
# Each step (push, build, run, fetch, analyse) is done once: its marker lies on the host or in
# artifacts/DATE, under the tree and the arguments, and the same command goes on behind the last
# one. Builds and runs are jobs of the host (tools/remote_host.sh, sent there first) that no
# connection holds up: this script only asks how far they are (tools/remote_ask.sh). Every question
# may be asked again, so a line that breaks, or the death of this script, costs nothing but time.
# Rejected: a terminal multiplexer and rsync (one more thing to be missing there; what is moved is a
# stream that is the same every time, and can be gone on with from any byte), and one long
# connection that carries the log (when it breaks, nobody knows what came of it).
# shellcheck disable=SC2317 # some functions are called by their names, by insist and by traps
set -u -o pipefail
export LC_ALL=C.UTF-8

usage() {
    cat <<'END'
usage: tools/remote.sh HOST [DATE] [OPTION...] [-- GRETA COMMAND...]

Pushes this tree to HOST, builds it there with the GPU backend that HOST has, runs a command of
greta there, fetches what it wrote into artifacts/DATE/, and analyses that here. The same command
again goes on where it stopped.

HOST is what ssh takes: a name of ~/.ssh/config, user@host, ssh://user@host:port. It must let you in
without a question, and needs sh, GNU tar, gzip, flock, setsid, sha256sum; to build, make and gcc.
DATE names the run: letters, digits, '.', '_', '-'. Default: today, UTC.

The command runs in an empty folder, all of which is fetched. ../tree is the pushed tree there,
../files/NAME the pushed model. What it says on stdout is said here on stdout. Default: isolate
-m MODEL --prompts ../tree/prompts --out isolate, with --device where a GPU backend was built.

  --dirty            push the working tree, with all that is changed and new; else it is refused
  --commit REV       push this commit; default HEAD
  --model MODEL      of the default command: a name, pulled there by greta pull (smollm2-135m), or a
                     path on HOST (with a '/'). With another command: the name is pulled before it
  --push FILE        push this model; the default command runs it
  --gpu NAME         cuda, hip or none. Default: nvcc there: cuda; hipcc, or clang++-19 with ROCm's
                     device libraries: hip; else none
  --deps             install there what the build needs: tools/deps.sh (Debian; root or sudo)
  --make COMMAND     how to build: for sh, in the tree, with $GPU (cuda, hip or empty) and $JOBS;
                     it must leave build/greta. Default: make -j, of greta and the GPU's plugin
  --env NAME=VALUE   a variable for the command, as GRETA_TRACE_RMSNORM=1; may be repeated
  --dir DIR          folder on HOST, for GRETA alone; default greta-remote in the home
  --greta FILE       greta of this machine, for the analysis; default build/greta
  --compare TRACE    also compare this trace with the fetched one of its name, or the only one
  --no-analysis      fetch only
  --patience SECONDS how long a lost host is waited for; default 600
  --ssh-config FILE  instead of ~/.ssh/config
  --stop             end the run of this DATE and these arguments on HOST, and nothing else
  --help             this text

artifacts/DATE/ has out/ (what the command wrote), stdout, exit-code, here/ (greta isolate --from,
made here, of the pairs of traces in out/), log/ (remote.log of this script, build.N.log and
run.N.log of attempt N there) and job (what all this is the result of).

Exit codes: the command's (0 aligned, 1 a fault, 6 no verdict ..), else that of the analysis here;
2 usage, a dirty tree; 4 HOST not reached, no compiler, no space, a failed build; 130, 143 after a
signal, while the job on HOST goes on. A command that ended 0, 1 or 6 is not run again; another is.
END
}

note() {
    echo "remote: $*" >&2
    if [ -n "${log-}" ]; then echo "$(date -u +%FT%TZ) $*" >>"$log/remote.log"; fi
}

fail() { # CODE WORD...
    local code=$1
    shift
    note "$@"
    exit "$code"
}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd) || exit 4
# shellcheck source=tools/remote_ask.sh
. "$root/tools/remote_ask.sh"

# ---- Arguments -----------------------------------------------------------------------------------

read_arguments() {
    host='' date='' dirty='' commit='' model='' push='' gpu=auto deps='' make='' env=() stop=''
    dir=greta-remote greta='' compare='' analysis=1 patience=600 ssh_config='' command=()
    local flag value
    while [ $# -gt 0 ]; do
        flag=$1 value=${2-}
        shift
        case $flag in
        --help | -h) usage && exit 0 ;;
        --dirty) dirty=1 ;;
        --deps) deps=1 ;;
        --no-analysis) analysis='' ;;
        --stop) stop=1 ;;
        --commit | --model | --push | --gpu | --make | --env | --dir | --greta | --compare | \
            --patience | --ssh-config)
            [ -n "$value" ] || fail 2 "$flag needs a value; see --help"
            shift
            case $flag in
            --env) env+=("$value") ;;
            --ssh-config) ssh_config=$value ;;
            *) printf -v "${flag#--}" '%s' "$value" ;;
            esac
            ;;
        --)
            command=("$@")
            [ $# -gt 0 ] || fail 2 "no command behind --; see --help"
            break
            ;;
        -*) fail 2 "unknown option ${flag@Q}; see --help" ;;
        *)
            if [ -z "$host" ]; then host=$flag; elif [ -z "$date" ]; then date=$flag; else
                fail 2 "${flag@Q} is one argument too many; a command stands behind --"
            fi
            ;;
        esac
    done
    check_arguments
}

check_arguments() {
    local pair
    [ -n "$host" ] || fail 2 "no HOST; see --help"
    [[ $host =~ ^[][A-Za-z0-9_.:@/%+-]+$ ]] || fail 2 "HOST ${host@Q} is no name of a host"
    date=${date:-$(date -u +%F)}
    [[ $date =~ ^[A-Za-z0-9_][A-Za-z0-9._-]{0,99}$ ]] ||
        fail 2 "DATE ${date@Q} is no name of a folder (letters, digits, '.', '_', '-')"
    case $gpu in auto | cuda | hip | none) ;; *) fail 2 "--gpu is cuda, hip or none" ;; esac
    [[ $patience =~ ^[0-9]{1,6}$ ]] || fail 2 "--patience is a number of seconds"
    for pair in ${env[@]+"${env[@]}"}; do
        [[ $pair =~ ^[A-Za-z_][A-Za-z0-9_]*= ]] || fail 2 "--env ${pair@Q} is not NAME=VALUE"
    done
    [ -z "$dirty" ] || [ -z "$commit" ] || fail 2 "--dirty and --commit name two trees"
    [ -z "$push" ] || [ -z "$model" ] || fail 2 "--push and --model both name the model"
    [ -z "$push" ] || [ -f "$push" ] || fail 4 "${push@Q} is no file"
    [ -z "$compare" ] || [ -f "$compare" ] || fail 4 "${compare@Q} is no file"
    for pair in ssh git flock sha256sum tar; do
        command -v "$pair" >/dev/null || fail 4 "there is no $pair here; install it"
    done
    greta=${greta:-$root/build/greta}
    [ -z "$analysis" ] || [ -x "$greta" ] || fail 2 "$greta, for the analysis, is not there;" \
        "make, or name one with --greta, or --no-analysis"
}

# The tree to push: sets tree (the id of its content), commit, and what for a reader of the log.
find_tree() {
    local changes index=$scratch/index
    if [ -n "$dirty" ]; then
        changes=$(git -C "$root" rev-parse --path-format=absolute --git-path index)
        cp "$changes" "$index" 2>/dev/null # so that git need not read what has not changed
        GIT_INDEX_FILE=$index git -C "$root" add -A || fail 4 "git cannot read the tree"
        tree=$(GIT_INDEX_FILE=$index git -C "$root" write-tree) || fail 4 "git cannot read the tree"
        commit=$(git -C "$root" rev-parse HEAD)+changes
        return
    fi
    changes=$(git -C "$root" status --porcelain) || fail 4 "$root is no git tree"
    [ -z "$changes" ] || [ -n "$commit" ] ||
        fail 2 "the tree is dirty ($(head -n 1 <<<"$changes"));" \
            "commit, or push it as it is with --dirty, or a commit with --commit"
    commit=$(git -C "$root" rev-parse --verify -q "${commit:-HEAD}^{commit}") ||
        fail 2 "--commit names no commit"
    tree=$(git -C "$root" rev-parse "$commit^{tree}")
}

key_of() { # WORD...: 16 digits that stand for these words
    printf '%s\0' "$@" | sha256sum | head -c 16
}

# artifacts/DATE: ours alone while we run, and the result of one command only.
take_folder() {
    local model_sum=''
    out=$root/artifacts/$date log=$out/log
    mkdir -p "$log" || fail 4 "$out cannot be made"
    exec 9>>"$out/.lock"
    if ! flock -n 9; then
        log=''
        fail 4 "another remote.sh works in $out; let it end, or name another DATE"
    fi
    if [ -n "$push" ]; then
        model_sum=$(sha256sum <"$push") || fail 4 "$push cannot be read"
        push_sum=${model_sum%% *} push_name=$(basename -- "$push")
    fi
    build_key=$(key_of "$tree" "$make")
    job=$date-$(key_of "$tree" "$make" "$gpu" "$model" "$model_sum" "${#env[@]}" \
        ${env[@]+"${env[@]}"} ${command[@]+"${command[@]}"})
    wanted="host $host
dir ${dir@Q}
commit $commit
tree $tree
make ${make@Q}
gpu $gpu
model ${model@Q} ${push@Q} $model_sum
environment ${env[*]@Q}
command ${command[*]@Q}"
    [ ! -f "$out/job" ] || [ "$(cat "$out/job")" = "$wanted" ] ||
        fail 2 "$out holds another run ($(diff "$out/job" - <<<"$wanted" | grep -m 1 '^<'));" \
            "name another DATE, such as $date-2"
}

# ---- Steps ---------------------------------------------------------------------------------------

check_host() {
    local build_mb=1024 push_mb=0
    note "$host: $cores cores, $free_mb MB free, GPU backend $gpu_there"
    [ "$build_state" = "done 0" ] || [ -n "$make$deps" ] || [ -z "${missing// /}" ] ||
        fail 4 "$host has no ${missing# } to build with; --deps installs make and gcc (root or" \
            "sudo), or choose with --gpu and --make"
    [ -z "$push" ] || push_mb=$(($(wc -c <"$push") / 1048576 + 1))
    [ "$free_mb" -ge $((build_mb + push_mb)) ] ||
        fail 4 "$host has $free_mb of $((build_mb + push_mb)) MB free in ${dir@Q};" \
            "make room there (old folders in work/ and jobs/), or choose with --dir"
}

push_tree() {
    [ "$tree_there" = no ] || return 0
    note "push: $commit"
    git -C "$root" archive --format=tar.gz "$tree" >"$scratch/tree" || fail 4 "git archive failed"
    input=$scratch/tree must tree "$work"
}

# However often the line breaks, what has arrived stays there.
push_model() {
    local told size code last=''
    [ -n "$push" ] || return 0
    size_of "$push"
    while must offer "$push_sum" "$push_name" && [ "${told[0]}" != have ]; do
        if [ "${told[0]}" -ge "$size" ]; then
            [ "$last" != damaged ] || fail 4 "$push changes while it is pushed"
            last=damaged
            must forget "$push_sum" "$push_name"
            continue
        fi
        note "push: $push, $((size - told)) of $size bytes to go"
        code=0
        exec 3< <(tail -c "+$((told + 1))" -- "$push" 2>/dev/null)
        input=/dev/fd/3 ask append "$push_sum" "$push_name" "${told[0]}" || code=$?
        exec 3<&-
        case $code in
        0) grep -qx 'greta-remote busy' "$scratch/answer" && sleep 1 ;;
        255) note "the connection to $host was lost ($(error_of))" ;;
        *) fail 4 "$host: $push cannot be written ($(error_of)); is its disk full?" ;;
        esac
    done
}

build() {
    local make_there=$make gpu_make=$gpu_there told=()
    [ "$build_state" != "done 0" ] || return 0
    [ "$gpu_there" != none ] || gpu_make=
    # shellcheck disable=SC2016 # expanded there
    [ -n "$make" ] || make_there='case $PWD in *[[:space:]]*)
            echo "make cannot build in a folder with a space in its name: $PWD; --dir names another"
            exit 4 ;; esac
        make -j"$JOBS" GPU="$GPU" build/greta ${GPU:+build/plugins/libgreta-$GPU.so}'
    {
        echo "cd ../../work/$work || exit 4"
        echo "export GPU=$gpu_make JOBS=$cores PATH=\"\$PATH:/usr/local/cuda/bin:/opt/rocm/bin\""
        # shellcheck disable=SC2016
        echo '[ "$GPU" != hip ] || command -v clang++-19 >/dev/null || export HIPCXX=hipcc'
        [ -z "$deps" ] || echo "sh tools/deps.sh run || exit
            [ \"\$GPU\" != hip ] || sh tools/deps.sh hip || exit"
        quote "$make_there"
        echo "sh -c$quoted </dev/null || exit"
        echo '[ -x build/greta ] || { echo "the build left no build/greta"; exit 1; }'
    } >"$scratch/script"
    start_job "build-$work" build
    follow "build-$work" build "${told[1]}"
    [ "$ended" = 0 ] || fail 4 "the build at $host failed, exit status $ended; its log is" \
        "$log/build.${told[1]}.log; --deps installs what Debian has; the same command tries again"
}

# The run, in jobs/JOB/out there.
run_script() {
    local pair pull=$model device=''
    echo "work=\$(cd ../../work/$work && pwd) && greta=\$work/build/greta || exit 4"
    # shellcheck disable=SC2016
    echo 'rm -rf out tree files && mkdir out && : >stdout && ln -s "$work" tree || exit 4'
    echo "ln -s ../../files/${push_sum-} files && cd out || exit 4"
    for pair in ${env[@]+"${env[@]}"}; do quote "$pair" && echo "export$quoted"; done
    if [ ${#command[@]} -gt 0 ]; then
        set -- "${command[@]}"
    else
        [ "$gpu_there" = none ] || device="--device $gpu_there"
        [ -z "$push" ] || model=../files/$push_name
        # shellcheck disable=SC2086 # two words or none
        set -- isolate -m "${model:-smollm2-135m}" --prompts ../tree/prompts --out isolate $device
        [ -n "$push" ] || pull=${model:-smollm2-135m}
    fi
    case $pull in
    '' | */*) ;;
    *) quote "$pull" && echo "\"\$greta\" pull$quoted >&2 || exit" ;;
    esac
    quote "$@"
    echo "exec \"\$greta\"$quoted >../stdout </dev/null"
}

run() {
    local told=(run "$run_n")
    if [[ ! "$run_state $run_code" =~ ^(running -|done [016])$ ]]; then
        check_host
        push_tree
        build
        push_model
        run_script >"$scratch/script"
        start_job "$job" run
    fi
    printf '%s\n' "$wanted" >"$out/job" || fail 4 "$out cannot be written"
    run_n=${told[1]}
    follow "$job" run "$run_n"
    note "run: exit status $ended"
}

fetch_rest() {
    size_of "$part"
    ask_into "$part" send "$job" "$size"
}

# What the run left comes as one tar, the same bytes every time, and is gone on with where it broke.
# A part that a killed ssh may still write to is left to it: we go on with a copy.
fetch() {
    local part=$out/.fetched.$run_n.tar size
    if [ -f "$part" ]; then
        cp --reflink=auto "$part" "$part.new" || fail 4 "$out: no space"
        mv "$part.new" "$part"
    fi
    touch "$part"
    insist fetch_rest || fail 4 "$host: what the run left cannot be read ($(error_of))"
    must sum "$job"
    if [ "$(sha256sum <"$part")" != "${told[0]}  -" ]; then
        rm -f "$part"
        fail 4 "what came from $host is damaged (no space in $out?); the same command fetches again"
    fi
    rm -rf "$out/out" "$out/stdout"
    tar -xf "$part" -C "$out" || fail 4 "$out: what came cannot be unpacked; is the disk full?"
    echo "$ended" >"$out/exit-code.new" || fail 4 "$out: no space"
    mv "$out/exit-code.new" "$out/exit-code"
    rm -f "$out"/.fetched.*
    note "fetch: $out/out"
}

# ---- Analysis ------------------------------------------------------------------------------------

# With the model where it is here too; without it, norms are judged only (docs/isolate.md).
model_here() {
    local name=${push:-${model:-smollm2-135m}}
    [ ${#command[@]} -eq 0 ] || name=${push:-$model}
    case $name in *[!/]*) "$greta" inspect "$name" >/dev/null 2>&1 && echo "$name" ;; esac
}

# Prints nothing but the comparison: the answer of the command was the answer. Returns the first
# status that is not 0.
analyse() {
    local code=0 ended_here name folder here=$out/here with=()
    name=$(model_here) && [ -n "$name" ] && with=(-m "$name")
    while IFS= read -r -d '' folder; do
        folder=${folder#./} && mkdir -p "$here/$folder"
        ended_here=0
        "$greta" isolate --from "$out/out/$folder" ${with[@]+"${with[@]}"} --force \
            --out "$here/$folder" >"$here/$folder/table" 2>"$here/$folder/log" || ended_here=$?
        note "analyse: $here/$folder/report.md, exit status $ended_here"
        [ "$code" -ne 0 ] || code=$ended_here
    done < <(cd "$out/out" && find . \( -name '*.decode.jsonl' -o -name '*.e0.jsonl' \) \
        -printf '%h\0' | sort -zu)
    [ -n "$compare" ] || return "$code"
    local found=("$out/out/${compare##*/}")
    [ -f "${found[0]}" ] || mapfile -d '' -t found < <(find "$out/out" -name '*.jsonl' -print0)
    [ ${#found[@]} -eq 1 ] || fail 2 "--compare: ${#found[@]} traces were fetched, none of them" \
        "${compare##*/}; give yours the name of one"
    ended_here=0
    "$greta" compare ${with[@]+"${with[@]}"} -- "$compare" "${found[0]}" || ended_here=$?
    [ "$code" -ne 0 ] || code=$ended_here
    return "$code"
}

main() {
    local code=0
    child='' log='' input=/dev/null
    read_arguments "$@"
    scratch=$(mktemp -d) || fail 4 "there is no space in ${TMPDIR:-/tmp}"
    trap hang_up EXIT
    trap 'leave INT 130' INT
    trap 'leave TERM 143' TERM
    trap 'leave HUP 129' HUP
    find_tree
    take_folder
    if [ -n "$stop" ] || ! grep -qsx '[016]' "$out/exit-code"; then
        hello
        work=$gpu_there-$build_key
        [ -z "$stop" ] || stop_run
        run
        fetch
    fi
    cat "$out/stdout" 2>/dev/null
    ended=$(cat "$out/exit-code")
    [ -z "$analysis" ] || analyse || code=$?
    [ "$ended" -eq 0 ] || code=$ended
    note "$out: exit status $code"
    exit "$code"
}

main "$@"
