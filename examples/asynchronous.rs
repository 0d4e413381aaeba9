//! Futures that any runtime can poll; here it is tokio. `cargo run --example asynchronous`

use std::time::Duration;

use scaler_object_storage::{Error, ObjectStore};

#[tokio::main]
async fn main() -> Result<(), Error> {
    let directory = std::env::temp_dir().join("asynchronous");
    let store = ObjectStore::builder().local(directory).max_size_mb(256).open()?;
    store.clear()?;

    // A task waits without a thread for an object that does not exist yet.
    let waiting = tokio::spawn(store.wait_async(b"result"));
    store.put_async(b"result", "42", "").await?;
    let Ok(result) = waiting.await else { panic!("the task panicked") };
    let result = result?;
    println!("the result is {}", String::from_utf8_lossy(&result.data));

    // Dropped, here by a timeout, a wait is taken back.
    let never = tokio::time::timeout(Duration::from_millis(10), store.wait_async(b"never")).await;
    assert!(never.is_err());
    assert_eq!(store.info().waiting_requests, 0);
    store.close()
}
