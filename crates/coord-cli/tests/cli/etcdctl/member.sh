# Status, alarms and maintenance of a member.
run endpoint health 2>&1 | sed 's/took = .*/took/'
run endpoint health -w json 2>&1 | sed 's/"took":"[^"]*"/took/'
run endpoint status -w fields | grep -v -e Raft -e DB -e Version
run put a 1
run endpoint hashkv | sed 's/, [0-9]*$/, a hash/'
run endpoint hashkv --rev 99
run member list | sed 's|^[0-9a-f]*, started, [a-z0-9]*, http:[^,]*||'
run member list -w json | sed 's/"name":"[^"]*","peerURLs":[^]]*]/name and peers/'
run alarm list
run alarm disarm
run defrag
run move-leader ffff
run move-leader
leader=$(etcdctl member list | cut -d , -f 1)
run move-leader $leader | sed "s/$leader/the leader/g"
run member remove ffff
run get a
