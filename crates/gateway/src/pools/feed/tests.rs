//! Feeds from files and addresses, and what they do to prices.

use std::path::Path;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::calendar::time_text;
use crate::config::Config;
use crate::money::Money;

fn pools(source: &str) -> Arc<Pools> {
    let text = format!(
        "[prices]\nsource = \"{source}\"\nage = \"1h\"\n\
         [pools.a]\nchips = 1\nprice = \"2 usd/chip-hour\"\ntokens_per_second = 1000\n\
         backends = [{{ url = \"http://127.0.0.1:9\" }}]\n[models.m]\npools = [\"a\"]\n"
    );
    let config = Config::parse(Path::new("/gateway.toml"), &text).unwrap();
    Pools::new(&config, &Arc::new(Secrets::new())).unwrap()
}

fn said(dollars: f64) -> String {
    let now = time_text(now_milliseconds());
    let now = now.trim_end_matches(" UTC").replace(' ', "T");
    format!(
        "{{\"time\": \"{now}Z\", \"prices\": {{\"a\": \"{dollars} usd/chip-hour\", \"b\": \"1 usd/chip-hour\"}}}}"
    )
}

/// One look at the feed of these pools.
async fn look(pools: &Arc<Pools>) -> Result<(), String> {
    let table = pools.table();
    let feed = table.prices.as_ref().unwrap();
    let bytes = read(feed, &pools.secrets).await?;
    let got = parse::parse(&bytes, now_milliseconds()).map_err(|error| with_causes(&error))?;
    take(&table, feed, got, &mut Said::default());
    Ok(())
}

fn price(pools: &Pools) -> (String, bool) {
    let view = pools.view().remove(0);
    (view.price, view.is_price_stale)
}

#[tokio::test]
async fn a_file_that_changes_is_followed_and_one_that_is_wrong_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("prices.json");
    let pools = pools(file.to_str().unwrap());
    assert!(look(&pools).await.unwrap_err().contains("could not be read"));
    assert_eq!(price(&pools), ("2.00 usd/chip-hour".to_owned(), false));
    std::fs::write(&file, said(1.5)).unwrap();
    look(&pools).await.unwrap();
    assert_eq!(price(&pools), ("1.50 usd/chip-hour".to_owned(), false));
    // An hour at 1.5 dollars is 3.6 million tokens.
    let cost = pools.table().pool("a").unwrap().cost(0, 0, 3_600_000);
    assert_eq!(cost, Money::from_dollars(1.5));
    for wrong in ["", "{}", &said(1.0).replace("usd", "")] {
        std::fs::write(&file, wrong).unwrap();
        assert!(look(&pools).await.is_err(), "{wrong}");
        assert_eq!(price(&pools), ("1.50 usd/chip-hour".to_owned(), false));
    }
    std::fs::write(&file, vec![b' '; BYTES_MAX + 1]).unwrap();
    assert!(look(&pools).await.unwrap_err().contains("longer than a megabyte"));
}

#[tokio::test(start_paused = true)]
async fn old_prices_do_not_steer() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("prices.json");
    std::fs::write(&file, said(1.5)).unwrap();
    let pools = pools(file.to_str().unwrap());
    let table = pools.table();
    let feed = table.prices.as_ref().unwrap();
    let got = parse::parse(&std::fs::read(&file).unwrap(), now_milliseconds()).unwrap();
    take(&table, feed, got, &mut Said::default());
    assert_eq!(price(&pools), ("1.50 usd/chip-hour".to_owned(), false));
    tokio::time::advance(Duration::from_secs(3700)).await;
    assert_eq!(price(&pools), ("2.00 usd/chip-hour".to_owned(), true));
}

#[tokio::test]
async fn a_feed_can_be_an_address() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        for status in ["200 OK", "503 Service Unavailable"] {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = vec![0; 4096];
            let count = stream.read(&mut asked).await.unwrap();
            assert!(asked[..count].starts_with(b"GET /v1/prices?of=me HTTP/1.1\r\n"));
            let body = said(0.75);
            let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n", body.len());
            stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
        }
    });
    let pools = pools(&format!("http://{address}/v1/prices?of=me"));
    look(&pools).await.unwrap();
    assert_eq!(price(&pools).0, "0.75 usd/chip-hour");
    assert_eq!(look(&pools).await.unwrap_err(), "it answers 503");
    assert_eq!(price(&pools).0, "0.75 usd/chip-hour");
}

#[tokio::test]
async fn a_gateway_that_runs_takes_what_the_feed_says() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("prices.json");
    std::fs::write(&file, said(1.25)).unwrap();
    let pools = pools(file.to_str().unwrap());
    let _tasks = pools.start();
    while price(&pools).0 != "1.25 usd/chip-hour" {
        sleep(Duration::from_millis(5)).await;
    }
}
