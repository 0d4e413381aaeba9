//! One thread waits for objects that another has yet to make. `cargo run --example waiting`

use std::thread;
use std::time::{Duration, Instant};

use scaler_object_storage::{CancelToken, Error, ObjectStore, Waited};

fn main() -> Result<(), Error> {
    let store = ObjectStore::builder().memory().open()?;
    let cancel = CancelToken::new();

    let worker = {
        let (store, cancel) = (store.clone(), cancel.clone());
        thread::spawn(move || -> Result<u32, Error> {
            for number in 0.. {
                let task = format!("task {number}");
                match store.wait(task.as_bytes(), None, Some(&cancel))? {
                    Waited::Object(object) => store.put(format!("result {number}").as_bytes(), &object.data, b"")?,
                    _ => return Ok(number),
                }
            }
            unreachable!("there is always a next number")
        })
    };

    for (number, data) in ["red", "green", "blue"].iter().enumerate() {
        store.put(format!("task {number}").as_bytes(), data.as_bytes(), b"")?;
        let deadline = Instant::now() + Duration::from_secs(10);
        match store.wait(format!("result {number}").as_bytes(), Some(deadline), None)? {
            Waited::Object(object) => println!("result {number}: {}", String::from_utf8_lossy(&object.data)),
            Waited::TimedOut | Waited::Cancelled => println!("result {number} is late"),
        }
    }

    cancel.cancel();
    if let Ok(count) = worker.join() {
        println!("the worker did {} tasks", count?);
    }
    store.close()
}
