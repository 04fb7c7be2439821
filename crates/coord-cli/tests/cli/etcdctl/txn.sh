# Transactions in interactive syntax: compares, then the success branch, then the failure branch.
# Without compares of leases, at which etcdctl 3.5 crashes.
# txn COMPARES THEN ELSE
txn() {
  echo "$1 | $2 | $3"
  printf '%b\n\n%b\n\n%b\n\n' "$1" "$2" "$3" | run txn
}
run put a 1
run put a 2
run put b 1
for target in 'value("a") %s "2"' 'version("a") %s "2"' 'create("a") %s "2"' 'mod("a") %s "3"'; do
  for sign in = '!=' '<' '>'; do
    txn "$(printf "$target" "$sign")" 'put held 1' 'put failed 1'
  done
done
txn 'mod("nothing") = "0"' 'get a' ''
txn 'value("nothing") = "0"' 'get a' 'get b'
txn 'version("a") = "2"\nversion("b") = "1"' 'put c 1\nget c\ndel c\nget "" --prefix' ''
txn 'version("a") = "2"\nversion("b") = "2"' '' 'put "quoted key" "quoted value"\nget "quoted key"'
txn '' 'put a 3\nput a 4' ''
txn '' 'get a --rev 99' ''
txn 'nothing("a") = "1"' '' ''
txn '' 'jump a' ''
printf 'mod("a") > "0"\n\nput a "5"\nget a\n\n\n' | run txn -w json
printf 'mod("a") > "0"\n\nput a "6"\nget a\n\n\n' | run txn -w fields
printf 'mod("a") > "0"\n\nput a "7"\nget a\n\n\n' | run txn -i
many=$(seq 129 | sed 's/.*/put k& 1/')
printf '\n%s\n\n\n' "$many" | run txn
run get "" --prefix
