#!/bin/sh
# Succeed if the login shell that has started this can run a command itself, in its own session.
#
# The manager joins these lines with blanks and sends them between single quotes, as with session.sh.
#
# The shell must be bash or zsh, and lead its process group, which is this one's too. Then the group
# can be ended safely, because all of it comes from this session. The variable SHELL is not enough:
# a forced command or a start file may have started another shell. Without /proc, and in groups of
# dropbear and asyncssh, session.sh starts a shell for the command.
#
# shellcheck disable=SC2086 # blanks split it on purpose: state, parent, process group, ...
{ read -r n </proc/$PPID/comm && read -r s </proc/$$/stat; } 2>/dev/null &&
    case $n in bash|zsh) ;; *) false;; esac &&
    set -- ${s##*) } && [ "$2" = "$3" ]
