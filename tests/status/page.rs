//! The status page in a browser, beside a server that works.

use std::sync::atomic::{AtomicBool, Ordering};

use scaler_object_storage::ObjectStore;
use serde_json::json;

use crate::browser::Browser;
use crate::client::{Client, get, id, set};
use crate::common::redis::RedisServer;
use crate::common::{bytes, until};
use crate::rig::Rig;

/// Puts and gets until it is told to stop.
fn work(client: &mut Client<std::net::TcpStream>, stop: &AtomicBool) {
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        let data = bytes(number, 20_000 + (number % 7) as usize * 15_000);
        client.ask(&set(id(number), &data, number));
        for _ in 0..4 {
            client.ask(&get(id(number), number));
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

#[test]
fn the_page_shows_the_numbers_light_and_dark_and_why_it_is_not_well() {
    let (mut redis, place) = (RedisServer::start(), tempfile::tempdir().unwrap());
    let store = ObjectStore::builder().tiered(place.path(), redis.url()).max_size_mb(2000).open().unwrap();
    let rig = Rig::start(store);
    let stop = AtomicBool::new(false);
    let mut worker = rig.client("worker");
    let mut waiting = rig.client("waiting");
    std::thread::scope(|scope| {
        scope.spawn(|| work(&mut worker, &stop));
        // Also where a check fails.
        let _stopping = Stopping(&stop);
        let browser = Browser::start();
        browser.look(1120, 640, "light");
        browser.open(&format!("http://{}/", rig.address()));
        let is_shown = |browser: &Browser| {
            browser.text("#state") == "All is well" && browser.text("#card-speed .figure").contains("99 %")
        };
        until("it shows numbers", || is_shown(&browser));
        assert!(browser.text("#card-holds .figure").contains("objects"));
        assert_eq!(browser.text("#card-waits .figure"), "Nobody");
        waiting.send(&get([1; 32], 1));
        until("it shows who waits", || browser.text("#card-waits .below").contains("for 1 object"));
        until("the plot has grown", || {
            browser.value("document.querySelector('#card-work .trace').getAttribute('d').length").as_u64() > Some(40)
        });
        assert!(browser.text("#place").starts_with("tiered in "), "{}", browser.text("#place"));
        browser.value("document.getElementById('more').open = true");
        until("all numbers are there", || browser.text("#tables").contains("Requests of clients since the start"));
        assert!(browser.text("#tables").contains("dirty records"));
        browser.value("document.getElementById('more').open = false");
        let wait = std::env::var("SCREENSHOTS_AFTER_SECONDS").map_or(0, |text| text.parse().unwrap());
        std::thread::sleep(std::time::Duration::from_secs(wait));
        browser.keep_screenshot("status_light.png");
        let background = "getComputedStyle(document.body).backgroundColor";
        let light = browser.value(background);
        browser.look(1120, 640, "dark");
        assert_ne!(browser.value(background), light);
        browser.keep_screenshot("status_dark.png");
        // On a telephone nothing is cut off.
        browser.look(360, 700, "light");
        let fits = "document.documentElement.scrollWidth <= 360";
        assert_eq!(browser.value(fits), json!(true));
        browser.keep_screenshot("status_narrow.png");

        browser.look(1120, 745, "light");
        let port = redis.port().to_string();
        redis.kill();
        until("it shows why it is not well", || {
            browser.text("#state") == "Degraded" && browser.text("#reasons").contains(&port)
        });
        until("it shows how far replication is behind", || browser.text("#card-behind .figure").contains("writes"));
        std::thread::sleep(std::time::Duration::from_secs(wait / 2));
        browser.keep_screenshot("status_degraded.png");
        redis.restart();
        until("it is well again", || browser.text("#state") == "All is well" && browser.text("#reasons").is_empty());
        assert_eq!(browser.errors(), [""; 0]);

        rig.status.stopping();
        until("it shows that the server stops", || browser.text("#state") == "Stopping");
    });
}

struct Stopping<'a>(&'a AtomicBool);

impl Drop for Stopping<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What a page of a server that is gone shows.
#[test]
fn the_page_says_that_its_server_is_gone() {
    let rig = Rig::start(ObjectStore::builder().memory().max_size_mb(64).open().unwrap());
    let browser = Browser::start();
    browser.look(1120, 745, "light");
    browser.open(&format!("http://{}/", rig.address()));
    until("it shows numbers", || browser.text("#state") == "All is well");
    let shown = "getComputedStyle(document.getElementById('card-behind')).display";
    assert_eq!(browser.value(shown), json!("none"), "nothing is replicated");
    drop(rig);
    until("it says so", || browser.text("#state") == "Not reachable");
    assert!(browser.text("#reasons").contains("does not answer"));
}
