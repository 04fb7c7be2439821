# What the scripts beside this one are written with. ETCDCTL_ENDPOINTS says where the server is.

# run ARGUMENT...: etcdctl, with what it was told, what it says, and its exit status. What is on
# standard input it reads.
run() {
  echo "\$ etcdctl $*"
  etcdctl "$@" 2>"$TMPDIR/errors" || echo "exit status $?"
  # Go's client logs with the time, and with addresses of its own.
  sed -e '/"level":"warn"/s/.*"error":/error: /' -e 's/^{"level".*/a line of the log/' "$TMPDIR/errors"
}

# start FILE ARGUMENT...: the same in the background; what it says goes to the file.
start() {
  file=$TMPDIR/$1 && shift
  echo "\$ etcdctl $* &"
  : >"$file"
  etcdctl "$@" >>"$file" 2>&1 &
}

# says FILE LINES: waits until so many lines are there, and shows them.
says() {
  until [ "$(wc -l <"$TMPDIR/$1")" -ge "$2" ]; do sleep 0.02; done
  sed "s/^/$1: /" "$TMPDIR/$1"
}

# stop PROCESS, and wait for its end. Not by INT, which a shell has its background ignore.
stop() {
  kill -TERM "$1"
  wait "$1" 2>"$TMPDIR/errors" || echo "exit status $?"
}
