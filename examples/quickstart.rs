//! Objects outlive the process: run it twice. `cargo run --example quickstart`

use scaler_object_storage::{Error, ObjectStore};

fn main() -> Result<(), Error> {
    let store = ObjectStore::builder().local(std::env::temp_dir().join("quickstart")).max_size_mb(256).open()?;
    match store.get(b"greeting")? {
        Some(object) => println!("an earlier run left {:?}", String::from_utf8_lossy(&object.data)),
        None => println!("nothing there yet"),
    }

    // When put returns, the object survives the death of this process.
    store.put(b"greeting", b"Hello, World!", b"text/plain")?;

    // A duplicate shares the bytes; each of the two lives until it is deleted.
    store.duplicate(b"greeting", b"welcome")?;
    println!("{} objects, {} payloads", store.info().objects, store.info().payloads);
    assert!(store.delete(b"welcome")?);
    store.close()
}
