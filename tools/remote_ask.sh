# remote_ask.sh - how tools/remote.sh, which reads this in, talks with tools/remote_host.sh there.
#
# One question is one ssh: a command with quoted words, data on stdin, an answer on stdout. Failures
# of ssh are status 255, which the host's half never gives; all else is the answer of the host. A
# question that was lost is asked again, with longer pauses each time, for up to --patience seconds.
# Nothing here asks for a password or a host key (BatchMode), and a line that is dead is noticed
# within a minute (ServerAlive).
#
# Read by it: host, dir, ssh_config, patience, gpu, build_key, job, scratch (a folder), root.
# shellcheck shell=bash disable=SC2154,SC2034

# Where the script waits, nothing is taken from $(..) or <(..): bash 5.2 may lose a signal that
# comes while it reads such a word.

# quote WORD...: sets quoted, for any shell of the Bourne family, whatever is in the words.
quote() {
    local word inside="'\\''"
    quoted=''
    for word in "$@"; do quoted+=" '${word//\'/$inside}'"; done
}

# size_of FILE: sets size.
size_of() {
    wc -c <"$1" >"$scratch/size"
    read -r size <"$scratch/size"
}

# ask COMMAND ARGUMENT...: one command of remote_host.sh there, fed from the file $input, its answer
# in $scratch/answer. Status 255: the connection failed; $scratch/error ends with the reason.
ask() {
    : >"$scratch/answer"
    ask_into "$scratch/answer" "$@"
}

ask_into() { # FILE COMMAND ARGUMENT...: behind what the file holds
    local file=$1 folder
    shift
    quote "$dir"
    folder=$quoted
    quote "$@"
    over_ssh "cd && cd --$folder && exec sh ./$helper$quoted" >>"$file"
}

# One connection carries all questions of a minute, unless its socket had too long a name.
ssh_with_options() {
    local share=(-o ControlMaster=auto -o "ControlPath=$scratch/ssh" -o ControlPersist=60)
    [ ${#scratch} -lt 70 ] || share=()
    exec ssh ${ssh_config:+-F "$ssh_config"} -T -x -a -o BatchMode=yes -o ConnectTimeout=15 \
        -o ServerAliveInterval=15 -o ServerAliveCountMax=4 ${share[@]+"${share[@]}"} "$@"
}

hang_up() {
    [ ! -S "$scratch/ssh" ] || (ssh_with_options -O exit -- "$host") 2>/dev/null
    rm -rf "$scratch"
}

# In the background, so that a signal is served at once; without our lock, which must go with us.
over_ssh() {
    ssh_with_options -- "$host" "$1" <"$input" 2>"$scratch/error" 9>&- &
    child=$!
    wait "$child"
    local code=$?
    child=''
    return "$code"
}

error_of() {
    grep -v '^Warning: Permanently added' "$scratch/error" | tail -n 1 | tr -d '\r'
}

# insist FUNCTION ARGUMENT...: again and again while the connection is lost, and patience lasts.
insist() {
    local pause=1 end=$((SECONDS + patience)) code
    while :; do
        code=0
        "$@" || code=$?
        [ "$code" -eq 255 ] || return "$code"
        [ "$SECONDS" -lt "$end" ] || fail 4 "$host was not reached for $patience seconds" \
            "($(error_of)); what runs there goes on; the same command goes on with it"
        note "the connection to $host was lost ($(error_of)); again in $pause s"
        sleep "$pause" &
        wait $!
        pause=$((pause < 30 ? pause * 2 : 30))
    done
}

# must COMMAND ARGUMENT...: the words of the answer, in the array told.
must() {
    local code=0
    told=()
    insist ask "$@" || code=$?
    read -r -a told <"$scratch/answer"
    [ "$code ${told[0]-}" = "0 greta-remote" ] ||
        fail 4 "$host: $1 failed, exit status $code ($(error_of)); is its disk full?"
    told=("${told[@]:1}")
}

# The first question brings the helper along: sets what the host is, and how far it has come.
hello() {
    local code=0 first begin words
    helper=remote_host-$(sha256sum <"$root/tools/remote_host.sh" | head -c 16).sh
    # shellcheck disable=SC2016 # expanded there
    begin='cd && mkdir -p -- "$1" && cd -- "$1" && cat >"$2.$$" && mv -f "$2.$$" "$2" || exit 4
        shift && exec sh "./$@"'
    words=(sh -c "$begin" sh "$dir" "$helper" hello "$gpu" "$build_key" "$job")
    quote "${words[@]}"
    input=$root/tools/remote_host.sh over_ssh "exec$quoted" >"$scratch/answer" || code=$?
    [ "$code" -ne 255 ] || fail 4 "$host cannot be reached ($(error_of));" \
        "ssh -o BatchMode=yes $host true must work"
    [ "$code" -eq 0 ] || fail 4 "$host: the folder ${dir@Q} cannot be used ($(error_of))"
    first=$(head -n 1 "$scratch/answer")
    [[ $first == greta-remote* ]] || fail 4 "$host says ${first@Q} as a shell" \
        "starts; make its start-up files silent where there is no terminal"
    read -r -a words <<<"$first"
    gpu_there=${words[1]} free_mb=${words[2]} cores=${words[3]} tree_there=${words[4]}
    build_state="${words[5]} ${words[7]}"
    run_state=${words[8]} run_n=${words[9]} run_code=${words[10]} missing=${words[*]:11}
    [[ " $missing" != *" needs:"* ]] || fail 4 "$host lacks ${missing//needs:/}; install it there"
}

# start_job JOB KIND: $scratch/script, unless it runs or is done. The attempt is told[1].
start_job() {
    input=$scratch/script must start "$1" "$2"
}

# follow JOB KIND N: its log into log/KIND.N.log, until it ends. Sets ended, its exit status.
follow() {
    local file=$log/$2.$3.log size
    note "$2: attempt $3, log in $file"
    touch "$file"
    while :; do
        size_of "$file"
        must watch "$1" "$3" "$size" 20
        tail -n +2 "$scratch/answer" | tee -a "$file" >&2
        size_of "$file"
        [ "${told[0]}" = running ] || [ "$size" -lt "${told[3]}" ] || break
    done
    ended=${told[2]}
    [ "${told[0]}" = "done" ] || fail 4 "the $2 at $host ended without a status (killed, or the" \
        "host went down); the same command starts it again"
}

stop_run() {
    must stop "$job"
    [ "${told[0]}" = running ] || fail 0 "there is no such run on $host"
    fail 0 "the run on $host was ended; the same command without --stop starts it again"
}

leave() { # SIGNAL CODE
    trap - EXIT
    [ -z "$child" ] || kill "$child" 2>/dev/null
    hang_up
    note "ended by SIG$1; what runs on the host goes on; the same command goes on with it"
    exit "$2"
}
