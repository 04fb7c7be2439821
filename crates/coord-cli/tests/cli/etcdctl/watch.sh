# Watches: history, live events, and compacted history.
for n in 1 2 3; do run put a $n; done
run put b/1 1
run del a
start history watch a --rev 1
wait_lines history 12 && stop $!
start before watch a --rev 2 --prev-kv
wait_lines before 18 && stop $!
start json watch a --rev 2 -w json
wait_lines json 1 && stop $!
start fields watch b --prefix --rev 1 -w fields
wait_lines fields 11 && stop $!
start range watch a c --rev 4
wait_lines range 9 && stop $!
start command watch a --rev 5 -- sh -c 'echo $ETCD_WATCH_REVISION $ETCD_WATCH_EVENT_TYPE $ETCD_WATCH_KEY $ETCD_WATCH_VALUE'
wait_lines command 4 && stop $!
start commands watch a --rev 2 -- echo changed
wait_lines commands 16 && stop $!

# The watch is registered when it delivers the event of a put.
start live watch live --prefix
until [ -s "$TMPDIR/live" ]; do etcdctl put live/0 registered >/dev/null && sleep 0.05; done
sleep 0.2 && : >"$TMPDIR/live"
for n in 1 2 3; do etcdctl put live/$n $n; done
etcdctl del live/ --prefix
wait_lines live 21 && stop $!

# From here on revisions differ between servers, because the number of puts above differs.
mkfifo "$TMPDIR/keys"
# The output of etcdctl is redirected before etcdctl receives a command.
etcdctl watch -i >"$TMPDIR/typed" 2>&1 <"$TMPDIR/keys" &
watcher=$!
exec 3>"$TMPDIR/keys"
echo 'watch a --rev 2' >&3
wait_lines typed 12
echo 'watch b/1 --rev 2' >&3
wait_lines typed 15
echo 'jump' >&3
exec 3>&-
wait $watcher || echo "exit status $?"

revision=$(etcdctl get a -w fields | sed -n 's/"Revision" : //p')
etcdctl compaction $revision >/dev/null
run watch a --rev 2 2>&1 | sed "s/$revision/all/g"
run watch
run watch --rev 2
