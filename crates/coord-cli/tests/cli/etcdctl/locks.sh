# Locks and elections, which etcdctl implements on plain keys.
run lock jobs sh -c 'echo ${ETCD_LOCK_KEY%/*} ${ETCD_LOCK_REV:+and a revision}; exit 7'
run lock jobs --ttl 5 -- echo ran
run lock
run lock jobs -- /no/such/command
start first lock jobs
first=$!
wait_lines first 1 | sed 's/\/.*//'
start second lock jobs
second=$!
until [ "$(etcdctl get jobs/ --prefix --keys-only | grep -c jobs/)" = 2 ]; do sleep 0.02; done
wc -c <"$TMPDIR/second"
stop $first
wait_lines second 1 | sed 's/\/.*//'
stop $second
run get jobs --prefix

start leader elect boss one
leader=$!
wait_lines leader 2
start listener elect --listen boss
listener=$!
wait_lines listener 2
start successor elect boss two
successor=$!
until [ "$(etcdctl get boss/ --prefix --keys-only | grep -c boss/)" = 2 ]; do sleep 0.02; done
stop $leader
wait_lines successor 2
wait_lines listener 4
stop $successor
stop $listener
run elect
run elect boss --listen two
run get boss --prefix
