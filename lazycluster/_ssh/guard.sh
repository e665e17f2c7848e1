#!/bin/sh
# The guard: run ssh, wait on a pipe that only the manager holds, end ssh when the pipe ends.
# Usage: guard.sh FOLDER SSH [ARGUMENT ...]
#
# A closed lifeline alone does not end ssh while a connection through a forward is open (measured
# with OpenSSH 9.2), so the guard outlives the manager for as long as it takes to end ssh.
# Standard input and output belong to ssh.
# Standard error is the manager's pipe, because dash takes no descriptor above 9 by its number.
# Everything that ssh starts, for example the ssh of a jump host, is in the guard's process group.
# Signals go to that group, so the guard runs nothing unless it leads the group.
# The trap is set after ssh was started: before its exec, ssh would have it too and lose a SIGTERM.
# The timer has the trap and therefore gets SIGKILL.
# An ssh that is about to end by itself ("ending") gets no SIGTERM, to keep its exit status.
# The last line of the log is that status: another part of the manager may reap the guard.
# Links in the folder lead to unfinished copies from the host.
# The process that removes a link, guard or manager, removes the copy.
# Links called socket-INODE-… lead to sockets of forwards, which ssh does not remove.
# A later socket there has another inode number, or is newer than the file made-INODE-….
# Before ssh has made the socket, nothing is there, and INODE is 0.
#
# The environment is the user's, and ssh gets it as it is. In bash it may hold options (SHELLOPTS,
# BASHOPTS, and so no pattern for files), functions with the name of a command, and TMOUT, which
# ends `read`.
set +aCefmuvx
unset -f chmod echo kill ls read readlink rm sleep ssh wait
kill -0 -$$ || exit
exec 3<&2 9<&0 </dev/null 2>>"$1/log"
folder=$1
shift
"$@" <&9 3<&- 9<&- &
ssh=$!
echo "$ssh" >"$folder/pid"
trap : TERM
exec 9<&- >/dev/null
PATH=/bin:/usr/bin:$PATH
same_socket() {
    number=${2%%-*}
    # shellcheck disable=SC2046 # the first word is the inode number
    set -- "$1" "$2" $(ls -di "$1" 2>/dev/null)
    [ -S "$1" ] && [ ! -h "$1" ] && {
        [ "$number" = 0 ] || { [ "$3" = "$number" ] && [ ! "$1" -nt "$folder/made-$2" ]; }
    }
}
tidy() {
    # shellcheck disable=SC2045 # no name has a blank, and a pattern depends on the environment
    for name in $(ls -A "$folder"); do
        case $name in .lazycluster-*)
            path=$(readlink "$folder/$name") && rm "$folder/$name" && {
                rm -rf "$path" || { chmod -R u+rwx "$path"; rm -rf "$path"; }
            } ;;
        socket-*)
            path=$(readlink "$folder/$name") && same_socket "$path" "${name#socket-}" && rm "$path" ;;
        esac
    done
    rm -rf "$folder"
}
TMOUT=0 read -r end <&3
[ "$end" ] || kill -TERM -$$
(sleep 3; tidy; kill -KILL -$$) &
timer=$!
wait "$ssh"
status=$?
kill -KILL "$timer"
tidy
kill -TERM -$$
echo "lazycluster: the exit status of ssh is $status" >&2
exit "$status"
