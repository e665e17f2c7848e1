#!/bin/sh
# Run one command in a session of its own, for the login shell of any account.
# Usage: session.sh ENCODED_COMMAND
#
# The manager joins these lines with blanks and sends them as one argument between single quotes;
# any login shell reads such a line alike. The command is in octal numbers where it is not plain.
#
# The account's shell runs the command, as for `ssh host command`, in the process that sshd waits
# for, so that sshd reports how it ended. A second process waits for the end of standard input,
# which comes when the command has ended, when the client stops it, and when the connection or the
# manager has gone. It ends the process group then. It is an orphan, so that no `wait` finds it.
# sshd has one socket for standard input and output, so the second process closes both.
#
# shellcheck disable=SC2034 # only the end of standard input counts
c=$(printf "%b." "$1"); exec 3<&0 </dev/null;
( (
    trap "" HUP INT TERM; exec >/dev/null 2>&1; read -r q <&3; exec 3<&-;
    kill -s TERM 0; kill -s 0 $$ || exit 0; sleep 2; kill -s KILL 0
) & );
exec 3<&-; exec "${SHELL:-/bin/sh}" -c "${c%.}"
