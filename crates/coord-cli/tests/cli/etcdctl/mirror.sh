# make-mirror: copies the keys under one prefix to another prefix, and then each change.
for n in 1 2; do run put from/$n $n; done
start mirror make-mirror --prefix from/ --dest-prefix to/ "$ETCDCTL_ENDPOINTS"
mirror=$!
until [ "$(etcdctl get to/ --prefix --print-value-only)" = "1
2" ]; do sleep 0.02; done
run put from/3 3
run del from/1
until [ "$(etcdctl get to/ --prefix --print-value-only)" = "2
3" ]; do sleep 0.02; done
run get to/ --prefix
stop $mirror
