#!/bin/sh
# The guard: run ssh, wait on a pipe that only the manager holds, end ssh when the pipe ends.
# Usage: guard.sh FOLDER SSH [ARGUMENT ...]
#
# A closed lifeline alone does not end ssh while a connection through a forward is open (measured
# with OpenSSH 9.2), so the guard outlives the manager for as long as it takes to end ssh.
# Standard input and output belong to ssh.
# Standard error is the manager's pipe, because dash takes no descriptor above 9 by its number.
# Everything that ssh starts, for example the ssh of a jump host, is in the guard's process group.
# The trap is set after ssh was started: before its exec, ssh would have it too and lose a SIGTERM.
# The timer has the trap and therefore gets SIGKILL.
# An ssh that is about to end by itself ("ending") gets no SIGTERM, to keep its exit status.
# Links in the folder lead to unfinished copies from the host.
# The process that removes a link, guard or manager, removes the copy.
exec 3<&2 9<&0 </dev/null 2>>"$1/log"
folder=$1
shift
"$@" <&9 3<&- 9<&- &
ssh=$!
echo "$ssh" >"$folder/pid"
trap : TERM
exec 9<&- >/dev/null
PATH=/bin:/usr/bin:$PATH
tidy() {
    for copy in "$folder"/.lazycluster-*; do
        path=$(readlink "$copy") && rm "$copy" && {
            rm -rf "$path" || { chmod -R u+rwx "$path"; rm -rf "$path"; }
        }
    done
    rm -rf "$folder"
}
read -r end <&3
[ "$end" ] || kill -s TERM 0
(sleep 3; tidy; kill -s KILL 0) &
timer=$!
wait "$ssh"
status=$?
kill -s KILL "$timer"
tidy
kill -s TERM 0
exit "$status"
