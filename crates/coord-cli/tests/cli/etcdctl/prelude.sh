# Functions that the other scripts call. ETCDCTL_ENDPOINTS is the address of the server.

# run ARGUMENT...: runs etcdctl. Prints the command line, the output, and the exit status unless it
# is 0. etcdctl reads standard input.
run() {
  echo "\$ etcdctl $*"
  etcdctl "$@" 2>"$TMPDIR/errors" || echo "exit status $?"
  # The log of Go's client has times and addresses of the client.
  sed -e '/"level":"warn"/s/.*"error":/error: /' -e 's/^{"level".*/a line of the log/' "$TMPDIR/errors"
}

# start FILE ARGUMENT...: runs etcdctl in the background. The file receives its output.
start() {
  file=$TMPDIR/$1 && shift
  echo "\$ etcdctl $* &"
  : >"$file"
  etcdctl "$@" >>"$file" 2>&1 &
}

# wait_lines FILE LINES: waits until the file has this many lines, and prints them.
wait_lines() {
  until [ "$(wc -l <"$TMPDIR/$1")" -ge "$2" ]; do sleep 0.02; done
  sed "s/^/$1: /" "$TMPDIR/$1"
}

# stop PROCESS: sends TERM and waits for the end. Background jobs of a shell ignore INT.
stop() {
  kill -TERM "$1"
  wait "$1" 2>"$TMPDIR/errors" || echo "exit status $?"
}
