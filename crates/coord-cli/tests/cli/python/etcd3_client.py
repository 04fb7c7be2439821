"""Test cases of etcd's API with the client etcd3. SERVER is the address of the server."""

import os
import queue
import unittest

# The client's generated code is older than the installed protobuf, and needs this implementation.
os.environ["PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION"] = "python"

import etcd3  # noqa: E402
import grpc  # noqa: E402

HOST, PORT = os.environ["SERVER"].rsplit(":", 1)
COMPACTED = "etcdserver: mvcc: required revision has been compacted"


class Etcd3(unittest.TestCase):
    def setUp(self):
        self.etcd = etcd3.client(host=HOST, port=int(PORT), timeout=20)
        self.addCleanup(self.etcd.close)
        self.key = self.id()

    def refused(self, code, message):
        test = self

        class Refused:
            def __enter__(self):
                return self

            def __exit__(self, kind, error, trace):
                test.assertIsInstance(error, grpc.RpcError)
                test.assertEqual((error.code(), error.details()), (code, message))
                return True

        return Refused()

    def test_put_get_delete(self):
        self.assertEqual(self.etcd.get(self.key), (None, None))
        put = self.etcd.put(self.key, "1")
        value, meta = self.etcd.get(self.key)
        self.assertEqual((value, meta.version), (b"1", 1))
        self.assertEqual(meta.create_revision, put.header.revision)
        again = self.etcd.put(self.key, "2", prev_kv=True)
        self.assertEqual(again.prev_kv.value, b"1")
        self.assertEqual(self.etcd.get(self.key, serializable=True)[1].version, 2)
        deleted = self.etcd.delete(self.key, prev_kv=True, return_response=True)
        self.assertEqual((deleted.deleted, deleted.prev_kvs[0].value), (1, b"2"))
        self.assertFalse(self.etcd.delete(self.key))
        with self.refused(grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: key is not provided"):
            self.etcd.put("", "1")

    def test_ranges_are_sorted_and_may_have_no_values(self):
        for n in (2, 3, 1):
            self.etcd.put(f"{self.key}/{n}", f"{4 - n}")
        prefix = self.key + "/"
        values = [value for value, _ in self.etcd.get_prefix(prefix)]
        self.assertEqual(values, [b"3", b"2", b"1"])
        found = self.etcd.get_prefix(prefix, sort_order="descend", sort_target="create")
        self.assertEqual([value for value, _ in found], [b"3", b"1", b"2"])
        keys = self.etcd.get_prefix_response(prefix, keys_only=True)
        self.assertEqual([kv.value for kv in keys.kvs], [b""] * 3)
        self.assertEqual((keys.count, keys.more), (3, False))
        some = self.etcd.get_range(prefix + "1", prefix + "3")
        self.assertEqual(len(list(some)), 2)
        self.assertEqual(self.etcd.delete_prefix(prefix).deleted, 3)

    def test_transaction_branch_follows_its_compares(self):
        t = self.etcd.transactions
        self.assertTrue(self.etcd.put_if_not_exists(self.key, "1"))
        self.assertFalse(self.etcd.put_if_not_exists(self.key, "2"))
        self.assertTrue(self.etcd.replace(self.key, "1", "2"))
        self.assertFalse(self.etcd.replace(self.key, "1", "3"))
        revision = self.etcd.get(self.key)[1].mod_revision
        for held in (
            t.value(self.key) == "2", t.value(self.key) > "1", t.version(self.key) == 2,
            t.version(self.key) != 1, t.create(self.key) < revision, t.mod(self.key) == revision,
        ):
            self.assertEqual(self.etcd.transaction([held], [], [])[0], True)
        within = t.txn([t.version(self.key) == 2], [t.get(self.key)], [])
        held, responses = self.etcd.transaction(
            compare=[t.version(self.key) == 2],
            success=[t.put(self.key, "3"), t.get(self.key), within, t.delete(self.key + "!")],
            failure=[],
        )
        self.assertTrue(held)
        self.assertEqual(responses[1][0][0], b"3")
        message = "etcdserver: duplicate key given in txn request"
        with self.refused(grpc.StatusCode.INVALID_ARGUMENT, message):
            self.etcd.transaction([], [t.put(self.key, "1"), t.put(self.key, "2")], [])

    def test_watch_delivers_history_then_new_events(self):
        start = self.etcd.put(self.key, "1").header.revision
        self.etcd.put(self.key, "2")
        responses, cancel = self.etcd.watch_response(self.key, start_revision=start)
        self.assertEqual([event.value for event in next(responses).events], [b"1", b"2"])
        self.etcd.delete(self.key)
        event = next(responses).events[0]
        self.assertIsInstance(event, etcd3.events.DeleteEvent)
        cancel()
        self.etcd.put(self.key, "3")
        self.assertRaises(StopIteration, next, responses)

    def test_prefix_watch_delivers_previous_values(self):
        found = queue.Queue()
        watch = self.etcd.add_watch_prefix_callback(self.key, found.put, prev_kv=True)
        self.etcd.put(self.key + "/1", "1")
        self.etcd.delete(self.key + "/1")
        put, deletion = (found.get(timeout=20).events[0] for _ in range(2))
        self.assertIsInstance(put, etcd3.events.PutEvent)
        self.assertIsInstance(deletion, etcd3.events.DeleteEvent)
        self.assertEqual(deletion.prev_value, b"1")
        self.etcd.cancel_watch(watch)

    def test_watch_and_compact_of_compacted_history_fail(self):
        for n in range(3):
            revision = self.etcd.put(self.key, str(n)).header.revision
        self.etcd.compact(revision)
        with self.refused(grpc.StatusCode.OUT_OF_RANGE, COMPACTED):
            self.etcd.compact(revision)
        events, _ = self.etcd.watch(self.key, start_revision=revision - 1)
        with self.assertRaises(etcd3.exceptions.RevisionCompactedError) as refused:
            next(events)
        self.assertEqual(refused.exception.compacted_revision, revision)

    def test_lease_refresh_and_revoke(self):
        lease = self.etcd.lease(300)
        self.etcd.put(self.key, "1", lease=lease)
        self.assertEqual(self.etcd.get(self.key)[1].lease_id, lease.id)
        self.assertEqual(lease.granted_ttl, 300)
        self.assertIn(lease.remaining_ttl, (298, 299))
        self.assertEqual(list(lease.keys), [self.key.encode()])
        self.assertEqual(lease.refresh()[0].TTL, 300)
        with self.assertRaises(etcd3.exceptions.PreconditionFailedError):
            self.etcd.lease(300, lease.id)
        lease.revoke()
        self.assertEqual(self.etcd.get(self.key), (None, None))
        self.assertEqual(lease.remaining_ttl, -1)
        self.assertEqual(lease.refresh()[0].TTL, 0)
        with self.refused(grpc.StatusCode.NOT_FOUND, "etcdserver: requested lease not found"):
            lease.revoke()
        with self.refused(grpc.StatusCode.NOT_FOUND, "etcdserver: requested lease not found"):
            self.etcd.put(self.key, "1", lease=lease)

    def test_locks_exclude_each_other_and_end_with_lease(self):
        first, second = (self.etcd.lock(self.key, ttl=2) for _ in range(2))
        self.assertTrue(first.acquire())
        self.assertFalse(second.acquire(timeout=0))
        self.assertTrue(first.is_acquired())
        self.assertTrue(first.release())
        with second:
            self.assertTrue(second.is_acquired())
            second.lease.revoke()
            self.assertFalse(second.is_acquired())
            self.assertTrue(first.acquire(timeout=10))
        self.assertTrue(first.is_acquired())
        first.release()

    def test_status_identifies_the_member(self):
        status = self.etcd.status()
        self.assertRegex(status.version, r"^3\.\d+\.\d+$")
        (member,) = self.etcd.members
        self.assertEqual(status.leader.id, member.id)
        self.assertEqual(list(member.client_urls), [f"http://{HOST}:{PORT}"])
        self.assertEqual(list(member.active_alarms), [])
        self.assertGreater(status.raft_index, 0)
        self.assertIsInstance(self.etcd.hash(), int)
        self.etcd.defragment()

    def test_space_alarm_refuses_puts_until_disarmed(self):
        self.addCleanup(self.etcd.disarm_alarm)
        (alarm,) = self.etcd.create_alarm()
        self.assertEqual(len(list(self.etcd.list_alarms())), 1)
        message = "etcdserver: mvcc: database space exceeded"
        with self.refused(grpc.StatusCode.RESOURCE_EXHAUSTED, message):
            self.etcd.put(self.key, "1")
        self.etcd.disarm_alarm()
        self.etcd.put(self.key, "1")


if __name__ == "__main__":
    unittest.main()
