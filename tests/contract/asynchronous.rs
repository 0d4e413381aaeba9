//! Futures: the same promises, and what a dropped one takes back.

use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use scaler_object_storage::{Error, Object, ObjectStore};

use crate::common::{Fixture, SIZES, bytes, until};

fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build().unwrap();
    runtime.block_on(future)
}

contract! {
    futures_do_what_calls_do,
    a_wait_is_answered_without_a_thread,
    a_dropped_wait_is_taken_back,
    a_future_ends_with_its_store,
    what_is_here_is_answered_at_the_first_poll,
}

fn futures_do_what_calls_do(fixture: &Fixture) {
    let store = fixture.open();
    run(async {
        for (number, size) in SIZES.iter().enumerate() {
            let (id, data) = ([number as u8 + 1], bytes(number as u64, *size));
            assert_eq!(store.get_async(&id).await.unwrap(), None);
            assert!(!store.contains_async(&id).await.unwrap());
            store.put_async(&id, data.clone(), "meta").await.unwrap();
            assert!(store.contains_async(&id).await.unwrap());
            let found = store.get_async(&id).await.unwrap().unwrap();
            assert_eq!((&found.data[..], &found.metadata[..]), (&data[..], &b"meta"[..]));
            assert!(store.duplicate_async(&id, b"copy").await.unwrap());
            assert_eq!(store.wait_async(b"copy").await.unwrap(), found);
            assert!(store.delete_async(&id).await.unwrap() && store.delete_async(b"copy").await.unwrap());
            assert_eq!(store.get_async(&id).await.unwrap(), None);
        }
        assert!(matches!(store.get_async(&[0; 100_000]).await, Err(Error::InvalidId { .. })));
        assert!(matches!(store.put_async(&[0; 100_000], "", "").await, Err(Error::InvalidId { .. })));
    });
}

fn a_wait_is_answered_without_a_thread(fixture: &Fixture) {
    let store = fixture.open();
    run(async {
        let waits: Vec<_> = (0..200_u8).map(|id| tokio::spawn(store.wait_async(&[id, 1]))).collect();
        for id in 0..200_u8 {
            store.put_async(&[id, 1], vec![id; 10], "").await.unwrap();
        }
        for (id, wait) in waits.into_iter().enumerate() {
            assert_eq!(wait.await.unwrap().unwrap().data, vec![id as u8; 10]);
        }
    });
}

fn a_dropped_wait_is_taken_back(fixture: &Fixture) {
    let store = fixture.open();
    run(async {
        let mut wait = Box::pin(store.wait_async(b"never"));
        while store.info().waiting_requests == 0 {
            let polled = tokio::time::timeout(Duration::from_millis(1), &mut wait).await;
            assert!(polled.is_err(), "it exists");
        }
        drop(wait);
    });
    until("nobody waits", || store.info().waiting_requests == 0);
}

fn a_future_ends_with_its_store(fixture: &Fixture) {
    let store = fixture.open();
    run(async {
        let wait = tokio::spawn(store.wait_async(b"never"));
        while store.info().waiting_requests == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let (get, put) = (store.get_async(b"id"), store.put_async(b"id", "data", ""));
        store.close().unwrap();
        assert!(matches!(wait.await.unwrap(), Err(Error::Closed)));
        assert!(matches!(get.await, Err(Error::Closed)));
        assert!(matches!(put.await, Err(Error::Closed)));
    });
}

struct Nobody;

impl Wake for Nobody {
    fn wake(self: Arc<Self>) {}
}

fn first_poll(store: &ObjectStore, id: &[u8]) -> Poll<Result<Option<Object>, Error>> {
    let waker = Waker::from(Arc::new(Nobody));
    Box::pin(store.get_async(id)).as_mut().poll(&mut Context::from_waker(&waker))
}

fn what_is_here_is_answered_at_the_first_poll(fixture: &Fixture) {
    let store = fixture.open();
    let backend = store.info().backend;
    store.put(b"id", b"data", b"").unwrap();
    // An attached process remembers what it was told.
    store.get(b"id").unwrap();
    match first_poll(&store, b"id") {
        Poll::Ready(found) => assert_eq!(found.unwrap().unwrap().data, "data"),
        Poll::Pending => assert_eq!(backend, "redis"),
    }
}
