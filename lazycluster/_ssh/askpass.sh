#!/bin/sh
# The program for SSH_ASKPASS: ask the manager, and print its answer.
# Usage: askpass.sh QUESTION
#
# $PPID is the ssh that asks. For a notice about a security key, the kind is "none", and ssh itself
# ends the program.
# The environment may have options of bash that would print the answer to the log (SHELLOPTS), and
# TMOUT, which ends `read`.
set +efuvx
unset -f printf read
folder=${0%/*}
printf '%s %s %s\0' "$PPID" "${SSH_ASKPASS_PROMPT:-secret}" "$1" >"$folder/question"
IFS='' TMOUT=0 read -r answer <"$folder/answer" && printf '%s\n' "$answer"
