#!/bin/sh
# The bootstrap: find a Python that can run the loader, which comes on standard input.
#
# The manager joins these lines with blanks and sends them as one argument between single quotes:
# bash, dash, csh, fish and busybox read such a line alike, xonsh too as long as it has no backslash.
# No data is in it, so the login shell reads nothing that a user typed. `read` takes one byte at a time from a pipe and leaves the rest
# of standard input to Python, whose first text is read one byte at a time as well and then reads the loader.
#
# The first line that is read says `exit`. If a start file replaced the shell (`exec zsh`), the new
# shell would otherwise take everything that follows for its script. The line must be whole: a start
# file that reads more than the spare lines has eaten some of it.
# An interpreter that failed is passed over only if it has left the next line to be read, and so
# everything behind that line. The text for Python has a line for each try, as a comment. Our own
# text ends with 0 or by a signal, and then nothing must be waited for.
# `${d}c` is `$c` for `eval`. It stands without quotes, so IFS is empty and no pattern is in it.
# TMOUT in the environment would end `read` in bash; commands keep it.
# `end` on standard error comes behind all that the interpreters have printed there; the reply goes
# another way and may be faster.
# The reply `try` lets the manager say whether a start file or an interpreter is silent.
# Python 3.7 and newer would set LC_CTYPE for themselves and thereby for every command.
#
# shellcheck disable=SC2034,SC2086,SC2242 # eval and blanks split it on purpose; @...@ become numbers
while TMOUT=0 read -r e s h t n v p && [ -z "$e" ]; do :; done;
case "$e $s $t" in "exit @OTHER_SHELL@; lazycluster-"*) ;; *) exit @INPUT_TAKEN@;; esac;
PYTHONCOERCECLOCALE=0; export PYTHONCOERCECLOCALE;
c="import os,sys;exec(bytes().join(os.read(0,1)for i in range(int(sys.argv.pop(2)))))"; d="$";
if [ "$p" ]; then set -- "$p"; else set -- python$v python3; fi; f=; k=; echo "$t try";
for q do
    s=-;
    if [ "$p" ] || command -v $q >/dev/null 2>&1; then
        IFS=; s=0; eval "$q -c ${d}c $t $n @PROGRAM_FAILED@" || s=$?; unset IFS;
        case $s in 0|@PROGRAM_FAILED@|137|143) exit $s;; esac;
        TMOUT=0 read -r g || :; k="#$k"; [ "$g" = "$k$t" ] || exit $s; n=$((n-${#g}-1));
    fi;
    f="$f $s";
done;
if [ "$p" ]; then set -- python$v python3; else set --; fi;
for q in "$@" python python2; do if command -v $q >/dev/null 2>&1; then f="$f $q"; fi; done;
echo "$t end" >&2; echo "$t none$f"; while TMOUT=0 read -r q; do :; done
