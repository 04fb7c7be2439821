# Compaction, and reads of compacted and of future revisions.
for n in 1 2 3 4; do run put a $n; done
run compaction 3
run compaction 3
run compaction 99
run compaction 0
run compaction 4 --physical
run compaction 5 -w json
run compaction
run compaction not-a-number
run get a --rev 3
run get a --rev 5
run get a
