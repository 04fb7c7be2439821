//! Go's tests of its recipe `RWMutex`.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use coord_core::recipes::RwLock;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::{Store, in_time};

/// How many clients read or write.
const CLIENTS: usize = 10;

/// How often each client locks.
const ROUNDS: usize = 5;

pub(super) async fn rw_mutex_single_node(store: Store) {
    no_contender_is_beside_a_writer(&store, |_| 0).await;
}

pub(super) async fn rw_mutex_multi_node(store: Store) {
    no_contender_is_beside_a_writer(&store, |n| n).await;
}

/// Readers and writers lock in rounds, of which some upgrade and downgrade. Go's test has no
/// upgrade and no downgrade.
async fn no_contender_is_beside_a_writer(store: &Store, member: fn(usize) -> usize) {
    let inside = Inside::default();
    let mut clients = JoinSet::new();
    for n in 0..CLIENTS {
        let (store, inside) = (store.clone(), inside.clone());
        clients.spawn(async move {
            let lock = RwLock::new(&store.session_of(member(n)).await, "test-rwmutex");
            for round in 0..ROUNDS {
                match (n + round) % 5 {
                    0 => {
                        let writer = lock.write().await.unwrap();
                        inside.use_alone().await;
                        let reader = writer.downgrade().await.unwrap();
                        inside.use_shared().await;
                        reader.unlock().await.unwrap();
                    }
                    1 => {
                        let reader = lock.read().await.unwrap();
                        inside.use_shared().await;
                        match reader.upgrade().await {
                            Ok(writer) => {
                                inside.use_alone().await;
                                writer.unlock().await.unwrap();
                            }
                            Err(error) => {
                                assert!(error.is_refused(), "{error}");
                                error.held.unlock().await.unwrap();
                            }
                        }
                    }
                    _ => {
                        let reader = lock.read().await.unwrap();
                        inside.use_shared().await;
                        reader.unlock().await.unwrap();
                    }
                }
            }
        });
    }
    in_time(clients.join_all()).await;
    let left = store.client().await.get_prefix("test-rwmutex/").await.unwrap();
    assert!(left.is_empty(), "{left:?}");
}

/// The numbers of readers and writers inside.
#[derive(Clone, Default)]
struct Inside(Arc<Mutex<(usize, usize)>>);

impl Inside {
    async fn use_shared(&self) {
        self.change(|(readers, writers)| {
            assert_eq!(*writers, 0, "a reader beside a writer");
            *readers += 1;
        });
        sleep(Duration::from_millis(2)).await;
        self.change(|(readers, _)| *readers -= 1);
    }

    async fn use_alone(&self) {
        self.change(|(readers, writers)| {
            assert_eq!((*readers, *writers), (0, 0), "a writer beside another contender");
            *writers += 1;
        });
        sleep(Duration::from_millis(2)).await;
        self.change(|(_, writers)| *writers -= 1);
    }

    fn change(&self, change: impl FnOnce(&mut (usize, usize))) {
        change(&mut self.0.lock().unwrap());
    }
}
