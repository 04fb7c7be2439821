# Puts and deletes, of one key and of ranges.
run put a 1
run put a 2 --prev-kv
run put a 3 --prev-kv -w json
run put a 4 -w fields
run put fresh 1 --prev-kv
run put "" 1
echo from standard input | run put a
run get a
run put a --ignore-value
run put a 5 --ignore-value
run put nothing --ignore-value
run put -- -a 1
lease=$(etcdctl lease grant 300 | cut -d ' ' -f 2)
run put a 6 --lease $lease
run put a 7 --ignore-lease
run get a -w fields
run put a 8 --lease $lease --ignore-lease
run put nothing 1 --ignore-lease
run put a 9 --lease 77
run put a 9 --lease not-a-number
run put a 9
run get a -w json
head -c 1600000 /dev/zero | tr '\0' x | run put large
run get large

for key in b/1 b/2 b/3 c d; do run put $key 1; done
run del b/1
run del b/1
run del b/ --prefix --prev-kv
run del c e
run del d --from-key --prev-kv -w json
run del
run del ""
run del a --prefix --from-key
run del "" --prefix -w fields
run get "" --prefix
