# Reads: every flag, every output format except protobuf, and refused reads.
for key in c a b/1 b/2 b; do run put $key "of $key"; done
run put a again
run get a
run get nothing
run get a --print-value-only
run get a c
run get a --from-key
run get b --prefix
run get "" --prefix --keys-only
run get b --prefix --count-only -w fields
run get b --prefix --limit 2
run get b --prefix --limit 2 -w json
for target in CREATE KEY MODIFY VALUE VERSION; do
  run get "" --prefix --sort-by $target --order DESCEND
  run get "" --prefix --sort-by $target
done
run get "" --prefix --order ASCEND --keys-only
run get a --rev 3 -w json
run get a --rev 2
run get a --rev 99
run get a --consistency s
run get a --consistency l -w fields
run get a --consistency x
run get "" --prefix -w json
run get "" --prefix --keys-only -w json
run get a -w fields
run get a -w simple --hex
run get a -w table
run get
run get a --prefix --from-key
run get a b c
run get a --sort-by nothing
