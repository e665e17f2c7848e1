#!/bin/sh
# Run one command in a session of its own, for the login shell of any account.
# Usage: session.sh SCRIPT [again | beside], where SCRIPT is this text.
#
# The manager joins these lines with blanks and sends them between single quotes; any login shell
# reads such a line alike, xonsh too as long as there is no backslash in it. The command comes on
# standard input, behind a word that shows that no start file has read it: the words of an argv, in
# octal numbers where they are not plain. One word alone is a command for the account's shell, or
# for /bin/sh if that shell runs no commands.
#
# Before the argv come the number of bytes of the command's own input, which follow the line, and a
# name that nothing has; `- -` without input. The input is stored in a file that is removed before
# the first byte is in it. Standard input is also what tells of the end of the connection, so the
# command cannot read it itself, and a pipe from here would be full if the command reads nothing.
#
# The shell runs the command in the process that sshd waits for, so that sshd reports how it ended.
# A second process waits for the end of standard input, which comes when the command has ended, when
# the client stops it, and when the connection or the manager has gone. It ends the process group
# then. It is an orphan, so that no `wait` finds it.
# sshd has one socket for standard input and output, so the second process closes both.
#
# Only the process group that this process leads gets a signal. OpenSSH makes one for each command;
# dropbear and asyncssh run commands in their own group (seen with dropbear 2022.83), so setsid makes
# one. Without setsid the signal goes to this process alone, and only as long as it started at the
# time that /proc says now.
#
# `beside`: the parent is a login shell that leads its process group, as login_shell.sh has found, and
# that runs the command itself. Only the second process is started then.
#
# TMOUT in the environment would end `read` in bash; the command keeps it.
#
# shellcheck disable=SC2015,SC2016,SC2034,SC2086,SC2094,SC2242 # it must be one line; @...@ is a number
set +m;
l=$$; [ "${2-}" != beside ] || l=$PPID;
kill -0 -$l 2>/dev/null || [ "${2-}" ] || { command -v setsid >/dev/null 2>&1 &&
    exec setsid /bin/sh -c "$1" lazycluster "$1" again; } || :;
while TMOUT=0 read -r e n f w && [ -z "$e" ]; do :; done;
[ "$e" = lazycluster ] || {
    echo "A start file of the account has read standard input." >&2; exit @INPUT_TAKEN@; };
started() { { read -r e </proc/$$/stat && set -- ${e##*) } && echo "${20}"; } 2>/dev/null || :; };
s=; k=-$l; kill -0 $k 2>/dev/null || { k=$$; s=$(started); };
end() { [ "$k" = -$l ] || { [ "$s" ] && [ "$s" = "$(started)" ]; } && kill $1 $k; };
exec 3<&0 </dev/null;
[ "$n" = - ] || {
    f=${TMPDIR:-/tmp}/$f; ( umask 077; set -C; : >"$f" ) || exit @NO_INPUT@;
    exec 4>"$f" 5<"$f" 6<"$f"; rm -f "$f"; head -c "$n" <&3 >&4;
    [ "$(wc -c <&6)" -eq "$n" ] || { echo "The input did not arrive." >&2; exit @NO_INPUT@; };
    exec <&5 4>&- 5<&- 6<&-; };
( (
    trap "" HUP INT TERM; exec >/dev/null 2>&1; TMOUT=0 read -r q <&3 || :; exec 3<&-;
    end -TERM || :; kill -0 $l || exit 0; sleep 2; end -KILL || :
) & );
[ $l = $$ ] || exit 0;
exec 3<&-;
set --; for q in $w; do c=$(printf "%b." "$q"); set -- "$@" "${c%.}"; done;
[ $# -gt 1 ] || { case ${SHELL-} in ""|*/nologin|*/false) s=/bin/sh;; *) s=$SHELL;; esac;
    set -- "$s" -c "${1-}"; };
exec "$@"
