# Watches: what had happened, what happens, and what is gone.
for n in 1 2 3; do run put a $n; done
run put b/1 1
run del a
start past watch a --rev 1
says past 12 && stop $!
start before watch a --rev 2 --prev-kv
says before 18 && stop $!
start json watch a --rev 2 -w json
says json 1 && stop $!
start fields watch b --prefix --rev 1 -w fields
says fields 11 && stop $!
start range watch a c --rev 4
says range 9 && stop $!
start command watch a --rev 5 -- sh -c 'echo $ETCD_WATCH_REVISION $ETCD_WATCH_EVENT_TYPE $ETCD_WATCH_KEY $ETCD_WATCH_VALUE'
says command 4 && stop $!
start commands watch a --rev 2 -- echo changed
says commands 16 && stop $!

# It stands when the event of the first put comes.
start live watch live --prefix
until [ -s "$TMPDIR/live" ]; do etcdctl put live/0 stands >/dev/null && sleep 0.05; done
sleep 0.2 && : >"$TMPDIR/live"
for n in 1 2 3; do etcdctl put live/$n $n; done
etcdctl del live/ --prefix
says live 21 && stop $!

# The revisions are other ones on each server now, as the watch was not there at once.
mkfifo "$TMPDIR/keys"
# What it says goes somewhere before it can be told anything.
etcdctl watch -i >"$TMPDIR/typed" 2>&1 <"$TMPDIR/keys" &
watcher=$!
exec 3>"$TMPDIR/keys"
echo 'watch a --rev 2' >&3
says typed 12
echo 'watch b/1 --rev 2' >&3
says typed 15
echo 'jump' >&3
exec 3>&-
wait $watcher || echo "exit status $?"

revision=$(etcdctl get a -w fields | sed -n 's/"Revision" : //p')
etcdctl compaction $revision >/dev/null
run watch a --rev 2 2>&1 | sed "s/$revision/all/g"
run watch
run watch --rev 2
