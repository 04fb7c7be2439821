"""Test cases of etcd's API with the client aetcd. SERVER is the address of the server."""

import asyncio
import os
import unittest

import aetcd
from aetcd import exceptions, rtypes

HOST, PORT = os.environ["SERVER"].rsplit(":", 1)


class Aetcd(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self):
        self.etcd = aetcd.Client(host=HOST, port=int(PORT), timeout=20)
        self.addAsyncCleanup(self.etcd.close)
        self.key = self.id().encode()

    async def test_put_get_delete(self):
        self.assertIsNone(await self.etcd.get(self.key))
        put = await self.etcd.put(self.key, b"1")
        found = await self.etcd.get(self.key)
        self.assertEqual((found.value, found.version), (b"1", 1))
        self.assertEqual(found.create_revision, put.header.revision)
        again = await self.etcd.put(self.key, b"2", prev_kv=True)
        self.assertEqual(again.prev_kv.value, b"1")
        deleted = await self.etcd.delete(self.key, prev_kv=True)
        self.assertEqual(deleted.prev_kv.value, b"2")
        self.assertIsNone(await self.etcd.delete(self.key))
        with self.assertRaisesRegex(exceptions.InvalidArgumentError, "key is not provided"):
            await self.etcd.put(b"", b"1")

    async def test_ranges_are_sorted(self):
        for n in (2, 3, 1):
            await self.etcd.put(self.key + b"/%d" % n, b"%d" % (4 - n))
        found = await self.etcd.get_prefix(self.key, sort_order="descend", sort_target="create")
        self.assertEqual([kv.value for kv in found], [b"3", b"1", b"2"])
        found = await self.etcd.get_range(self.key + b"/1", self.key + b"/3")
        self.assertEqual([kv.value for kv in found], [b"3", b"2"])
        deleted = await self.etcd.delete_prefix(self.key, prev_kv=True)
        self.assertEqual(deleted.deleted, 3)

    async def test_transaction_branch_follows_its_compares(self):
        t = self.etcd.transactions
        await self.etcd.put(self.key, b"1")
        self.assertTrue(await self.etcd.replace(self.key, b"1", b"2"))
        self.assertFalse(await self.etcd.replace(self.key, b"1", b"3"))
        held, responses = await self.etcd.transaction(
            compare=[t.value(self.key) == b"2", t.version(self.key) > 1],
            success=[t.put(self.key, b"3"), t.get(self.key)],
            failure=[t.delete(self.key)],
        )
        self.assertTrue(held)
        self.assertEqual(responses[1][0][0], b"3")
        held, _ = await self.etcd.transaction(
            compare=[t.create(self.key) == 0], success=[], failure=[t.delete(self.key)]
        )
        self.assertFalse(held)
        self.assertIsNone(await self.etcd.get(self.key))

    async def test_watches_on_one_stream_receive_their_own_events(self):
        other = self.key + b" and another"
        watches = [await self.etcd.watch(key, prev_kv=True) for key in (self.key, other)]
        prefix = await self.etcd.watch_prefix(self.key, kind=rtypes.EventKind.DELETE)
        await self.etcd.put(self.key, b"1")
        await self.etcd.put(other, b"2")
        await self.etcd.put(self.key, b"3")
        await self.etcd.delete(other)

        async def values(watch, count):
            found = []
            async for event in watch:
                found.append((event.kind, event.kv.key, event.kv.value))
                if len(found) == count:
                    return found

        put, delete = rtypes.EventKind.PUT, rtypes.EventKind.DELETE
        expected = [
            [(put, self.key, b"1"), (put, self.key, b"3")],
            [(put, other, b"2"), (delete, other, b"")],
            [(delete, other, b"")],
        ]
        for watch, events in zip([*watches, prefix], expected):
            self.assertEqual(await asyncio.wait_for(values(watch, len(events)), 20), events)
            await watch.cancel()

    async def test_watch_once_returns_first_event_or_times_out(self):
        revision = (await self.etcd.put(self.key, b"1")).header.revision
        event = await self.etcd.watch_once(self.key, timeout=20, start_revision=revision)
        self.assertEqual(event.kv.value, b"1")
        with self.assertRaises(exceptions.WatchTimeoutError):
            await self.etcd.watch_once(self.key, timeout=0.2)

    async def test_watch_of_compacted_history_fails(self):
        for n in range(3):
            revision = (await self.etcd.put(self.key, b"%d" % n)).header.revision
        await self.etcd.compact(revision)
        with self.assertRaisesRegex(exceptions.ClientError, "has been compacted"):
            await self.etcd.compact(revision)
        with self.assertRaises(exceptions.RevisionCompactedError) as refused:
            async for _ in await self.etcd.watch(self.key, start_revision=revision - 1):
                pass
        self.assertEqual(refused.exception.compacted_revision, revision)

    async def test_lease_refresh_and_revoke(self):
        lease = await self.etcd.lease(300)
        await self.etcd.put(self.key, b"1", lease=lease)
        self.assertEqual(await lease.granted_ttl(), 300)
        self.assertIn(await lease.remaining_ttl(), (298, 299))
        self.assertEqual(list(await lease.keys()), [self.key])
        self.assertEqual((await lease.refresh()).TTL, 300)
        with self.assertRaises(exceptions.DuplicateLeaseError):
            await self.etcd.lease(300, lease.id)
        await lease.revoke()
        self.assertIsNone(await self.etcd.get(self.key))
        with self.assertRaisesRegex(exceptions.ClientError, "requested lease not found"):
            await lease.revoke()

    async def test_locks_exclude_each_other(self):
        first, second = (self.etcd.lock(self.key, ttl=10) for _ in range(2))
        self.assertTrue(await first.acquire())
        self.assertFalse(await second.acquire(timeout=0.3))
        waiting = asyncio.create_task(second.acquire(timeout=10))
        await asyncio.sleep(0.1)
        self.assertTrue(await first.release())
        self.assertTrue(await asyncio.wait_for(waiting, 20))
        self.assertTrue(await second.is_acquired())
        self.assertFalse(await first.is_acquired())
        await second.release()

    async def test_status_identifies_the_member(self):
        status = await self.etcd.status()
        self.assertRegex(status.version, r"^3\.\d+\.\d+$")
        members = [member async for member in self.etcd.members()]
        self.assertEqual([member.id for member in members], [status.leader.id])
        self.assertIsInstance(await self.etcd.hash(), int)
        await self.etcd.defragment()

    async def test_space_alarm_refuses_puts_until_disarmed(self):
        self.addAsyncCleanup(self.etcd.disarm_alarm)
        await self.etcd.create_alarm()
        self.assertEqual(len([alarm async for alarm in self.etcd.list_alarms()]), 1)
        with self.assertRaisesRegex(exceptions.ClientError, "database space exceeded"):
            await self.etcd.put(self.key, b"1")
        await self.etcd.disarm_alarm()
        await self.etcd.put(self.key, b"1")


if __name__ == "__main__":
    unittest.main()
