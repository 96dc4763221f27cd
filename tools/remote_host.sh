#!/bin/sh
# remote_host.sh COMMAND ARGUMENT... - the host's half of tools/remote.sh, which sends it there.
#
# It runs in the folder that belongs to GRETA on that host:
#
#   work/GPU-KEY/      one pushed tree, with its build
#   files/SUM/NAME     pushed models; NAME.part grows until its SHA-256 is right
#   jobs/NAME/         one job, a build or a run: attempt (a number), and of each attempt script.N,
#                      log.N, pid.N and status.N; of a run also stdout and out/, where it ran
#
# A job is a session of its own (setsid) that holds a lock on jobs/NAME/lock, which all it starts
# inherits: no second one can start while anything of it lives, a number that was once a process
# of ours is never taken for one, and a job whose lock is free without a status was killed. So each
# command here may be repeated by any number of callers, at any time, whatever became of the last.
#
# stdin brings data, stdout carries an answer whose first line starts with greta-remote.
set -u

answer() {
    echo "greta-remote $*"
}

is_free() { # JOB FLAG...: of flock
    job=$1
    shift
    (flock "$@" 9) 9>>"jobs/$job/lock"
}

# state JOB: `none 0 -`, `running N -`, `done N CODE` or `lost N -`.
state() {
    n=$(cat "jobs/$1/attempt" 2>/dev/null) || n=0
    status=jobs/$1/status.$n
    if [ "$n" = 0 ]; then
        echo "none 0 -"
    elif [ ! -s "$status" ] && ! is_free "$1" -n; then
        echo "running $n -"
    elif [ -s "$status" ]; then # it may have ended just now: its status comes before its lock goes
        echo "done $n $(cat "$status")"
    else
        echo "lost $n -"
    fi
}

# A build that worked and a run with a verdict are final; what ended otherwise may be tried again.
is_final() { # KIND CODE
    case $1:$2 in build:0 | run:0 | run:1 | run:6) return 0 ;; esac
    return 1
}

has() {
    command -v "$1" >/dev/null 2>&1
}

# Which plugin can be built here, and what is missing for it: sets gpu and missing.
find_gpu() { # WANTED
    PATH=$PATH:/usr/local/cuda/bin:/opt/rocm/bin
    missing=
    gpu=$1
    if [ "$gpu" = auto ]; then
        gpu=none
        { has clang++-19 && ls /usr/lib/*/amdgcn/bitcode >/dev/null 2>&1; } && gpu=hip
        has hipcc && gpu=hip
        has nvcc && gpu=cuda
    fi
    case $gpu in
    cuda) has nvcc || missing="nvcc" ;;
    hip) has hipcc || has clang++-19 || missing="hipcc" ;;
    esac
}

# hello GPU KEY RUN: what this host is, and how far the build and the run are.
hello() {
    find_gpu "$1"
    for tool in flock setsid sha256sum gzip; do
        has "$tool" || missing="$missing needs:$tool"
    done
    tar --version 2>/dev/null | grep -q GNU || missing="$missing needs:GNU-tar"
    has make || missing="$missing make"
    has gcc || missing="$missing gcc"
    free=$(df -Pk . | awk 'NR == 2 { print int($4 / 1024) }')
    cores=$(nproc 2>/dev/null || echo 1)
    tree=no
    [ -d "work/$gpu-$2" ] && tree=yes
    # shellcheck disable=SC2046 # the states are words
    answer "$gpu" "${free:-0}" "$cores" "$tree" $(state "build-$gpu-$2") $(state "$3") \
        "$missing"
}

# tree WORK: unpacks the tree that stdin brings (tar.gz, so that a torn one is seen).
tree() {
    mkdir -p work
    new=work/.new-$1-$$
    trap 'rm -rf "$new"' EXIT
    mkdir "$new" && tar -xzf - -C "$new" || return 4
    (
        flock 9
        [ -d "work/$1" ] || mv "$new" "work/$1"
    ) 9>work/lock || return 4
    answer tree
}

# offer SUM NAME: how much of a file is here: `have`, or the bytes of its part.
offer() {
    if [ -f "files/$1/$2" ]; then
        answer have
    else
        answer "$(wc -c 2>/dev/null <"files/$1/$2.part" || echo 0)"
    fi
}

# append SUM NAME OFFSET: stdin goes behind the first OFFSET bytes; the file gets its name when its
# sum is right. `busy`: a connection that was lost has not ended here yet, or another one pushes it.
append() {
    part=files/$1/$2.part
    mkdir -p "files/$1"
    exec 9>>"$part.lock"
    if ! flock -w 2 9 || [ "$(wc -c 2>/dev/null <"$part" || echo 0)" != "$3" ]; then
        answer busy
        return
    fi
    cat >>"$part" || return 4
    sum=$(sha256sum <"$part")
    if [ "${sum%% *}" = "$1" ]; then
        mv "$part" "files/$1/$2" && answer have
    else
        answer "$(wc -c <"$part")"
    fi
}

# forget SUM NAME: a part as long as the file, but another, is begun again.
forget() {
    rm -f "files/$1/$2.part"
    answer forgotten
}

# start JOB KIND: stdin is its script. A job that runs, or ended with an answer, is left as it is.
start() {
    job=jobs/$1
    mkdir -p "$job" && cat >"$job/script.new.$$" || return 4
    exec 9>>"$job/lock"
    if flock -w 1 9; then
        n=$(cat "$job/attempt" 2>/dev/null) || n=0
        if ! is_final "$2" "$(cat "$job/status.$n" 2>/dev/null)"; then
            n=$((n + 1))
            mv "$job/script.new.$$" "$job/script.$n" && : >"$job/log.$n" &&
                echo "$n" >"$job/attempt.$$" && mv "$job/attempt.$$" "$job/attempt" || return 4
            setsid sh "$0" hold "$job" "$n" </dev/null >/dev/null 2>&1 &
        fi
    fi
    exec 9>&-
    rm -f "$job/script.new.$$"
    # shellcheck disable=SC2046
    answer $(state "$1")
}

# hold JOB N: the job itself; descriptor 9 is its lock.
hold() {
    cd "$1" || exit 4
    echo $$ >"pid.$2"
    sh "./script.$2" >>"log.$2" 2>&1
    echo $? >"status.new" && mv status.new "status.$2"
}

# watch JOB N OFFSET SECONDS: waits until the log has more than OFFSET bytes or the job has ended,
# then answers its state and the size of its log, with up to a MiB of what stands behind OFFSET.
watch() {
    end=$(($(date +%s) + $4))
    pause=0.1
    while :; do
        now=$(state "$1") # before the size: the log of a job that is done does not grow
        size=$(wc -c <"jobs/$1/log.$2") || return 4
        case $now in running*) ;; *) break ;; esac
        [ "$size" -gt "$3" ] && break
        [ "$(date +%s)" -ge "$end" ] && break
        sleep "$pause"
        pause=0.5
    done
    answer "$now" "$size"
    tail -c "+$(($3 + 1))" "jobs/$1/log.$2" | head -c 1048576
}

# stop JOB: ends our own job, with all it started, and nothing else: not a number that was ours.
stop() {
    now=$(state "$1")
    n=${now#running }
    n=${n% -}
    case $now in
    running*)
        pid=$(cat "jobs/$1/pid.$n")
        if [ "$(readlink "/proc/$pid/cwd")" != "$(cd "jobs/$1" && pwd -P)" ]; then
            echo "its first process is gone; what holds jobs/$1/lock must be ended by hand" >&2
            return 4
        fi
        kill -TERM "-$pid" && is_free "$1" -w 10 || return 4
        ;;
    esac
    answer "$now"
}

pack() { # JOB: what is fetched, as one stream that is the same every time
    cd "jobs/$1" || return 4
    tar --sort=name -cf - -- out stdout 2>/dev/null
}

# sum JOB: of the whole stream. send JOB OFFSET: what stands behind its first OFFSET bytes.
sum() {
    sum=$(pack "$1" | sha256sum)
    answer "${sum%% *}"
}

send() {
    pack "$1" | tail -c "+$(($2 + 1))"
}

case ${1:-} in
hello | tree | offer | append | forget | start | hold | watch | stop | sum | send) "$@" ;;
*)
    echo "remote_host.sh: is run by tools/remote.sh" >&2
    exit 2
    ;;
esac
