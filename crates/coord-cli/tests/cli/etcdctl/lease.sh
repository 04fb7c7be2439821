# Leases. The server chooses their ids; the test masks them in the order of their occurrence.
run lease list
run lease grant 300
run lease grant 0
run lease grant -- -5
run lease grant 9000000001
run lease grant
run lease grant long
lease=$(etcdctl lease list | sed -n 2p)
etcdctl lease grant 300 -w json | sed 's/"ttl":300/ttl/'
lease=$(etcdctl lease grant 300 | cut -d ' ' -f 2)
for n in 1 2 3; do run put k$n $n --lease $lease; done
# The order of the keys is not defined.
etcdctl lease timetolive $lease --keys | tr -s '(), []' '\n' | grep '^k' | sort
etcdctl lease timetolive $lease | sed 's/remaining([0-9]*s)/remaining/'
run lease timetolive 77
run lease timetolive
run lease timetolive not-a-number
run lease keep-alive --once $lease
run lease keep-alive --once $lease -w json
run lease keep-alive 77
start alive lease keep-alive $lease
wait_lines alive 1 && stop $!
run lease revoke $lease
run lease revoke $lease
run lease timetolive $lease
run get k --prefix
run lease revoke
short=$(etcdctl lease grant 1 | cut -d ' ' -f 2)
run put short lived --lease $short
until [ -z "$(etcdctl get short)" ]; do sleep 0.1; done
run lease timetolive $short
