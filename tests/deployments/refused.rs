//! Whom Redis does not let in is told why, without the password (invariant 12).

use std::path::PathBuf;

use scaler_object_storage::{Error, ObjectStore};

use super::{Authority, BACKENDS, Nodes, RedisServer, certified, trusting};

/// What the first thing that needs Redis fails with: opening, where the backend is `redis` (there is nothing else that it could
/// do), or a get of what is not here.
fn failure(nodes: &Nodes) -> String {
    let missing = |store: ObjectStore| match store.get(b"missing") {
        Ok(found) => panic!("Redis is said to have answered: {found:?}"),
        Err(error) => error,
    };
    let error = match nodes.try_open() {
        Ok(store) => {
            store.put(b"local", b"works all the same", b"").unwrap();
            missing(store)
        }
        Err(error) => {
            assert_eq!(nodes.backend, "redis", "Redis is no reason not to start: {error}");
            error
        }
    };
    assert!(matches!(error, Error::Unreachable { .. } | Error::Denied { .. }), "{error:?}");
    format!("{error} {error:?}")
}

fn quick(nodes: Nodes) -> Nodes {
    nodes.with(|options| options.drain_timeout_ms = 100)
}

#[test]
fn a_wrong_password() {
    for name in ["objects", "default"] {
        let server = RedisServer::settings().user(name, "right").start();
        for backend in BACKENDS {
            let failure = failure(&quick(Nodes::new(backend, server.url().replace("right", "hush"))));
            assert!(failure.contains("WRONGPASS") && failure.contains("Denied"), "{failure}");
            assert!(failure.contains(&format!("127.0.0.1:{}", server.port())), "{failure}");
            assert!(!failure.contains("hush"), "{failure}");
        }
    }
}

#[test]
fn no_password_where_one_is_wanted() {
    let server = RedisServer::settings().user("default", "right").start();
    for backend in BACKENDS {
        let failure = failure(&quick(Nodes::new(backend, server.url().replace(":right@", ""))));
        assert!(failure.contains("NOAUTH") && failure.contains("Denied"), "{failure}");
    }
}

#[test]
fn a_certificate_of_an_authority_that_is_not_known() {
    let (directory, known) = (tempfile::tempdir().unwrap(), Authority::new());
    let server = RedisServer::settings().tls(&Authority::new(), false).start();
    for backend in BACKENDS {
        let failure = failure(&quick(trusting(&known, directory.path(), Nodes::new(backend, server.url()))));
        assert!(failure.to_lowercase().contains("certificate"), "{failure}");
    }
}

#[test]
fn no_certificate_and_a_strange_one_where_one_is_wanted() {
    let (directory, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let server = RedisServer::settings().tls(&authority, true).start();
    for backend in BACKENDS {
        failure(&quick(trusting(&authority, directory.path(), Nodes::new(backend, server.url()))));
        failure(&quick(certified(&Authority::new(), directory.path(), Nodes::new(backend, server.url()))));
    }
}

#[test]
fn files_that_are_not_there_or_not_what_they_should_be() {
    let directory = tempfile::tempdir().unwrap();
    let junk = directory.path().join("junk.pem");
    std::fs::write(&junk, "this is no certificate").unwrap();
    let [_, cert, key] = Authority::new().certify("client").write(directory.path());
    for backend in BACKENDS {
        for wrong in [&junk, &PathBuf::from("/no/such/file.pem")] {
            for [ca, cert, key] in
                [[wrong, &cert, &key], [&cert, wrong, &key], [&cert, &cert, wrong]].map(|p| p.map(PathBuf::clone))
            {
                let nodes = Nodes::new(backend, "rediss://:hush@127.0.0.1:1").with(move |options| {
                    options.tls_ca = Some(ca.clone());
                    options.tls_cert = Some(cert.clone());
                    options.tls_key = Some(key.clone());
                });
                let error = nodes.try_open().expect_err("it cannot have been read").to_string();
                assert!(error.contains(&wrong.display().to_string()) && !error.contains("hush"), "{error}");
            }
        }
    }
}

#[test]
fn urls_that_are_none() {
    for backend in BACKENDS {
        for url in [
            "",
            "hush",
            "redis:/me:hush@127.0.0.1",
            "http://me:hush@127.0.0.1",
            "redis://me:hush@",
            "redis://me:hush@127.0.0.1:port",
            "redis://me:hush@127.0.0.1:99999",
            "redis://me:hush@127.0.0.1/database",
            "redis://me:hush@127.0.0.1/0?no=such",
            "redis+sentinel://me:hush@127.0.0.1:1",
            "redis+cluster://me:hush@127.0.0.1:1/1",
            "redis+unix://me:hush@",
        ] {
            let error = Nodes::new(backend, url).try_open().expect_err(url);
            assert!(matches!(error, Error::Config(_)), "{error:?}");
            assert!(!format!("{error} {error:?}").contains("hush"), "{error}");
        }
    }
}
